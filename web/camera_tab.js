// The live camera: each picture is captioned as soon as the one before is, with the map of its most focused word.

import { clearCanvas, drawSmoothMap } from "./attention_map.js";
import { createElement } from "./dom.js";
import { fill, texts } from "./i18n.js";

const MAP = { blur: 0.5, strength: 1 };

export function addCameraTab(element, engine, options, openPhoto) {
  const find = (selector) => element.querySelector(selector);
  const [video, canvas, message, start, keep] = ["video", "canvas", ".camera-message", ".start", ".keep"].map(find);
  let stream = null;
  let gpuTried = false;

  async function run() {
    message.hidden = true;
    let opened;
    try {
      opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      return say(error);
    }
    stream = video.srcObject = opened;
    await video.play();
    show(true);
    if (!gpuTried) engine.request("tryGpu").catch(console.warn);
    gpuTried = true;
    while (stream === opened) await captionPicture(opened).catch(say);
  }

  async function captionPicture(opened) {
    const bitmap = await createImageBitmap(video);
    // Greedy search: the next picture is more interesting than a slightly better caption of this one.
    const answer = await engine.request("captionOnce", { bitmap, options: { ...options(), num_beams: 1 } }, [bitmap]);
    if (stream !== opened) return;
    const peaks = answer.words.map(({ map }) => Math.max(...map));
    const focused = peaks.indexOf(Math.max(...peaks));
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    clearCanvas(canvas);
    if (focused >= 0) drawSmoothMap(canvas, answer.words[focused].map, MAP);
    const words = answer.words.flatMap(({ text }, i) => [i ? " " : "", createElement("span", i === focused ? "shown" : "", text)]);
    find(".camera-caption").replaceChildren(...words);
    find(".camera-caption").lang = options().language ?? "en";
  }

  function say(error) {
    stop();
    const refused = ["NotAllowedError", "SecurityError"].includes(error.name);
    message.textContent = refused ? texts.camera_refused : fill(texts.camera_missing, { reason: error.message });
    message.hidden = false;
  }

  function show(running) {
    find(".camera").hidden = keep.hidden = !running;
    start.textContent = running ? texts.camera_stop : texts.camera_start;
  }

  function stop() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = video.srcObject = null;
    show(false);
  }

  async function keepPicture() {
    const picture = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    picture.getContext("2d").drawImage(video, 0, 0);
    const file = new File([await picture.convertToBlob({ type: "image/png" })], texts.camera_picture);
    stop();
    openPhoto(file);
  }

  start.addEventListener("click", () => (stream ? stop() : run()));
  keep.addEventListener("click", keepPicture);
  return { stop };
}
