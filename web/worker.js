// Runs the captioner in a thread of its own, so that the page stays responsive; see engine.js, which talks to it.
//
// It is sent { id, action, ...values } and answers { id, result } or { id, error }; before that it sends { progress } while
// it loads the captioner, and { settings } or { failure } after that.

import { Captioner } from "./captioner.js";
import { Downloader } from "./download.js";
import { useGpuIfFaster } from "./gpu.js";
import { resize } from "./resize.js";
import { Tracer } from "./trace.js";

const MAX_PIXELS = 8_000_000; // larger photos are drawn smaller, so that phones have enough memory
const MASK_COLOR = 128; // of each channel; close to zero after normalization

let tracing; // a promise of a Tracer, once the lecture was opened
const photos = new Map(); // key -> { pixels, encoded, size } of the photos that the page shows
const loading = load();
loading.then(
  ({ settings }) => self.postMessage({ settings }),
  (error) => self.postMessage({ failure: error.message }),
);

async function load() {
  const base = new URL("./", self.location).href;
  const sizes = await new Downloader(base).json("large_files.json");
  return Captioner.load(new Downloader(base, sizes, (...progress) => self.postMessage({ progress })));
}

const actions = {
  // Take in a photo, an ImageBitmap, which the other actions then find by its key.
  async open({ key, bitmap }) {
    const captioner = await loading;
    const size = [bitmap.width, bitmap.height];
    const pixels = readPixels(bitmap);
    photos.set(key, { pixels, encoded: await captioner.encode(pixels), size });
  },

  close({ key }) {
    photos.delete(key);
  },

  async caption({ key, text, options }) {
    return (await loading).caption(photos.get(key).encoded, text, options);
  },

  async explain({ key, caption, options }) {
    return (await loading).explainCaption(photos.get(key).encoded, caption, options);
  },

  // Caption a photo that is not asked about again.
  async captionOnce({ bitmap, options }) {
    const captioner = await loading;
    return captioner.caption(await captioner.encode(readPixels(bitmap)), "", options);
  },

  // Caption the photo with parts covered, and score its first caption. `mask` is a string of side * side digits; "1" marks
  // a covered cell.
  async captionMasked({ key, mask, caption, options }) {
    const captioner = await loading;
    const masked = await captioner.encode(applyMask(photos.get(key).pixels, mask));
    return {
      ...(await captioner.caption(masked, "", options)),
      probabilities: await captioner.probabilities(masked, caption, options),
    };
  },

  // All intermediate results on the way to a caption.
  async trace({ key, caption, options }) {
    tracing ??= Tracer.load(await loading);
    return (await tracing).trace(photos.get(key), caption, options);
  },

  // [word, id] of each word of a text.
  async tokenize({ text }) {
    const { tokenizer } = await loading;
    return tokenizer.encode(text).map((id) => [tokenizer.word(id), id]);
  },

  // Before many photos: try whether a GPU is faster. Its runtime is 6.6 MB, too much for one photo.
  async tryGpu() {
    const captioner = await loading;
    const side = captioner.images.size.height;
    const pixels = { data: new Uint8Array(4 * side * side).fill(MASK_COLOR), width: side, height: side };
    await useGpuIfFaster(captioner, pixels);
  },
};

let last = Promise.resolve(); // a session runs once at a time
self.onmessage = ({ data: { id, action, ...values } }) => {
  last = last.then(() => actions[action](values)).then(
    (result) => self.postMessage({ id, result }),
    (error) => self.postMessage({ id, error: error.message ?? String(error) }),
  );
};

// The pixels of a photo on a white ground, as in Python.
function readPixels(bitmap) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height)));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

// Paint the covered cells gray, with the soft edges that the page displays.
function applyMask({ data, width, height }, mask) {
  const side = Math.sqrt(mask.length);
  const opacity = resize(Uint8Array.from(mask, (cell) => 255 * cell), side, side, 1, width, height);
  const masked = data.map((value, i) => {
    const alpha = opacity[i >> 2];
    return Math.round((MASK_COLOR * alpha + value * (255 - alpha)) / 255);
  });
  return { data: masked, width, height };
}
