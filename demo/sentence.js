// The caption as one sentence above its words, and what can be taken along: its text, a picture of all maps, a film, the
// numbers, a worksheet.

import { animateWebp } from "./animated_webp.js";
import { createElement } from "./dom.js";
import { fill, texts } from "./i18n.js";
import { drawFilm, drawPicture } from "./pictures.js";
import { printWorksheet } from "./worksheet.js";

const FRAME_TIME = 900; // milliseconds, as the words are played on the page
const LAST_FRAME_TIME = 2500;

export function addSentence(viewer) {
  const [sentence, status] = [".sentence", ".status"].map((selector) => viewer.find(selector));

  viewer.addEventListener("answer", () => {
    const { words } = viewer.answer;
    sentence.replaceChildren(...words.flatMap(({ text }, i) => [i ? " " : "", createElement("span", "", text)]));
    status.textContent = "";
  });
  viewer.addEventListener("word", () => {
    [...sentence.children].forEach((word, i) => word.classList.toggle("shown", i === viewer.shown));
  });
  const actions = {
    copy: () => copySentence(sentence, viewer.answer.caption),
    "save-picture": () => savePicture(viewer),
    "save-film": () => saveFilm(viewer),
    "save-json": () => saveNumbers(viewer),
    worksheet: () => printWorksheet(viewer),
    share: () => share(viewer),
    embed: () => copyEmbed(),
  };
  viewer.find(".correct").addEventListener("click", () => viewer.trigger("correct"));
  for (const [name, action] of Object.entries(actions)) {
    viewer.find(`.${name}`).addEventListener("click", async () => {
      status.textContent = ""; // so that the same message is announced again
      status.textContent = (await action()) ?? "";
    });
  }
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

async function copyEmbed() {
  const address = location.href.replaceAll("&", "&amp;").replaceAll('"', "&quot;");
  const code = `<iframe src="${address}" width="100%" height="900" allow="camera; clipboard-write" loading="lazy"></iframe>`;
  return (await copyText(code)) ? texts.embed_copied : texts.share_failed;
}

async function copySentence(sentence, caption) {
  if (await copyText(caption)) return texts.copied;
  // Without HTTPS, browsers offer no clipboard. Select the sentence, which the older command copies.
  getSelection().selectAllChildren(sentence);
  return document.execCommand("copy") ? texts.copied : texts.copy_failed;
}

async function savePicture(viewer) {
  const { photo, answer } = viewer;
  const picture = drawPicture(photo, answer.words, (canvas, map) => viewer.paintMap(canvas, map), texts.picture_note);
  return download(await toBlob(picture, "image/png"), answer.caption, "png");
}

async function saveFilm(viewer) {
  const { photo, answer } = viewer;
  const canvases = drawFilm(photo, answer.words, (canvas, map) => viewer.paintMap(canvas, map));
  const blobs = await Promise.all(canvases.map((canvas) => toBlob(canvas, "image/webp")));
  if (blobs[0].type !== "image/webp") return texts.film_unsupported; // Safari writes PNG instead
  const pictures = await Promise.all(blobs.map(async (blob) => new Uint8Array(await blob.arrayBuffer())));
  const durations = pictures.map((_, i) => (i + 1 < pictures.length ? FRAME_TIME : LAST_FRAME_TIME));
  const film = animateWebp(pictures, durations, canvases[0].width, canvases[0].height);
  return download(new Blob([film], { type: "image/webp" }), answer.caption, "webp");
}

// All that the page knows of the caption but the photo: words, probabilities, maps, alternatives, beams.
function saveNumbers({ answer }) {
  const { photo, opening, resting, prefix_length: prefixLength, ...numbers } = answer;
  return download(new Blob([JSON.stringify(numbers, null, 1)], { type: "application/json" }), answer.caption, "json");
}

// Hand the picture of all maps and the page's address to another app, or copy the address.
async function share(viewer) {
  if (!navigator.share) return (await copyText(location.href)) ? texts.address_copied : texts.share_failed;
  const { answer, photo } = viewer;
  const picture = drawPicture(photo, answer.words, (canvas, map) => viewer.paintMap(canvas, map), texts.picture_note);
  const file = new File([await toBlob(picture, "image/png")], "caption.png", { type: "image/png" });
  const data = { title: answer.caption, text: answer.caption, url: location.href };
  try {
    await navigator.share(navigator.canShare?.({ files: [file] }) ? { ...data, files: [file] } : data);
  } catch (error) {
    if (error.name !== "AbortError") return texts.share_failed;
  }
  return "";
}

const toBlob = (canvas, type) => new Promise((resolve) => canvas.toBlob(resolve, type, 0.9));

// Let the browser save a blob under the name of the caption. Returns the sentence that says so.
function download(blob, caption, extension) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${caption.slice(0, 80).replace(/[^\p{L}\p{M}\p{N}]+/gu, "-")}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return fill(texts.saved, { name: link.download });
}
