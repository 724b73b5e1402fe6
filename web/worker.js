// Runs the captioner in a thread of its own, so that the page stays responsive.
//
// The page sends { id, action, ...arguments } and is answered by { id, result } or { id, error }.

import * as ort from "./onnxruntime/ort.wasm.min.mjs";
import { Captioner } from "./captioner.js";
import { useGpuIfFaster } from "./gpu.js";
import { resize } from "./resize.js";

const MAX_PIXELS = 8_000_000; // larger photos are drawn smaller, so that phones have enough memory
const MASK_COLOUR = 128; // of each channel; close to zero after normalization

ort.env.wasm.wasmPaths = new URL("onnxruntime/", self.location).href;
// Without cross-origin isolation there is no memory that threads could share.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const loading = Captioner.load(ort, new URL("model/", self.location).href);
let pixels; // of the current photo
let photo; // the same, encoded
let gpuTried = false;

const actions = {
  async load() {
    return (await loading).settings;
  },

  // `bitmap`: an ImageBitmap of a new photo, or none for the current one.
  async caption({ bitmap, text, settings }) {
    const captioner = await loading;
    if (bitmap) {
      pixels = readPixels(bitmap);
      photo = await captioner.encode(pixels);
    }
    return captioner.caption(photo, text, settings);
  },

  // Caption the photo with parts covered, and score its first caption. `mask` is a string of side * side digits; "1" marks
  // a covered cell.
  async captionMasked({ mask, caption, settings }) {
    const captioner = await loading;
    const masked = await captioner.encode(applyMask(pixels, mask));
    return {
      ...(await captioner.caption(masked, "", settings)),
      probabilities: await captioner.probabilities(masked, caption),
    };
  },
};

let last = Promise.resolve(); // a session runs once at a time
self.onmessage = ({ data: { id, action, ...values } }) => {
  last = last.then(() => actions[action](values)).then(
    (result) => self.postMessage({ id, result }),
    (error) => self.postMessage({ id, error: String(error) }),
  );
  if (values.bitmap && !gpuTried) { // only now, so that it does not delay the first caption
    gpuTried = true;
    last = last.then(async () => useGpuIfFaster(await loading, pixels)).catch(console.warn);
  }
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

// Paint the covered cells grey, with the soft edges that the page displays.
function applyMask({ data, width, height }, mask) {
  const side = Math.sqrt(mask.length);
  const opacity = resize(Uint8Array.from(mask, (cell) => 255 * cell), side, side, 1, width, height);
  const masked = data.map((value, i) => {
    const alpha = opacity[i >> 2];
    return Math.round((MASK_COLOUR * alpha + value * (255 - alpha)) / 255);
  });
  return { data: masked, width, height };
}
