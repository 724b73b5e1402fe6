// Every intermediate result of the captioner on the way from a photo to its caption, for the tour: demo/trace.py in
// JavaScript.

import { addOutputs, findContext, findTrunk, readGraph } from "./onnx_graph.js";
import { resize } from "./resize.js";
import { largest, logSoftmax } from "./search.js";

const NUM_CHANNELS = 5; // per encoder stage, those that differ most between places
const NUM_VALUES = 64; // of the RNN's hidden state and of the context vector
const NUM_WORDS = 24; // of the vocabulary
const NUM_CANDIDATES = 8; // next words
const PATCH_SIDE = 6; // pixels per side of the patch whose values are shown
const CHANNEL_SIDE = 128; // of the photo's channels
const MAP_SIDE = 96; // of a feature map, at most

export class Tracer {
  // Load the captioner's graphs once more, with further outputs.
  static async load(captioner) {
    const { files, ort, encoderPath, decoderPath } = captioner;
    const models = await Promise.all([encoderPath, decoderPath].map((path) => files.get(path)));
    const [encoder, decoder] = models.map((model) => new Uint8Array(model));
    const context = findContext(readGraph(decoder));
    const trunk = findTrunk(readGraph(encoder));
    const sessions = [addOutputs(encoder, trunk), addOutputs(decoder, context ? [context] : [])].map(async (model) =>
      ort.InferenceSession.create(await model));
    const network = await files.json("network.json"); // see publishing/static_site.py
    return Object.assign(new Tracer(), { captioner, network, trunk, context, sessions: await Promise.all(sessions) });
  }

  // What demo/trace.py returns. `photo` is { pixels, encoded, size }.
  async trace(photo, caption, options) {
    const { captioner } = this;
    const { config, tokenizer } = captioner;
    const { decoder_start_token_id: start } = captioner.settingsOf(options);
    const inputs = captioner.preprocess(photo.pixels);
    const ids = [start, ...tokenizer.encode(caption), captioner.ends[0]];
    const outputs = await this.sessions[0].run(inputs);
    const regions = rows(outputs.last_hidden_state);
    return {
      pixels: { original_size: photo.size, ...(await describePixels(photo.pixels, config.image_size)) },
      encoder: config.encoder_name,
      stages: await describeStages(this.trunk.map((name) => outputs[name]).filter(isFeatureMap)),
      transfer: this.network,
      regions: regions.length,
      region_values: regions.map((values) => round(values.slice(0, NUM_VALUES), 2)),
      hidden_size: config.hidden_size,
      rnn: config.rnn_type.toUpperCase(),
      vocabulary: tokenizer.describe(NUM_WORDS),
      start: tokenizer.word(start),
      steps: await this.#steps(photo.encoded, ids),
    };
  }

  async #steps({ regions, states }, ids) {
    const { Tensor, rnns, tokenizer } = this.captioner;
    const steps = [];
    let past = states;
    for (let step = 0; step < ids.length - 1; step++) {
      const inputs = { input_ids: new Tensor("int64", BigInt64Array.of(BigInt(ids[step])), [1, 1]), encoder_hidden_states: regions };
      rnns.forEach((name, i) => (inputs[`past_key_values.${name}`] = past[i]));
      const outputs = await this.sessions[1].run(inputs);
      past = rnns.map((name) => outputs[`present.${name}`]);
      const state = (name) => outputs[`present.${name}.0`] && round([...outputs[`present.${name}.0`].data].slice(0, NUM_VALUES), 3);
      const scores = logSoftmax(outputs.logits.data);
      const heads = outputs.cross_attentions.data.length / regions.dims[1];
      steps.push({
        input: tokenizer.word(ids[step]),
        output: tokenizer.word(ids[step + 1]),
        state: state("first"),
        second_state: state("second"),
        heads: Array.from({ length: heads }, (_, head) =>
          round(outputs.cross_attentions.data.slice(head * regions.dims[1], (head + 1) * regions.dims[1]), 6)),
        context: this.context && round(outputs[this.context].data.slice(0, NUM_VALUES), 3),
        candidates: largest([scores], NUM_CANDIDATES).map(({ word, value }) => ({
          word: tokenizer.word(word),
          probability: Math.exp(value),
        })),
      });
    }
    return steps;
  }
}

// Whether a tensor is (1, channels, rows, columns), but not the photo itself.
function isFeatureMap({ dims }) {
  return dims.length === 4 && dims[1] > 3;
}

// The photo as the encoder receives it, its channels, and the values of its central patch, (rows, columns, 3).
async function describePixels({ data, width, height }, size) {
  const resized = resize(data, width, height, 4, size, size);
  const start = Math.floor((size - PATCH_SIDE) / 2);
  const range = Array.from({ length: PATCH_SIDE }, (_, i) => start + i);
  const channel = (index) => resize(resized.filter((_, i) => i % 4 === index), size, size, 1, CHANNEL_SIDE, CHANNEL_SIDE);
  return {
    size,
    photo: await pictureUrl(new Uint8ClampedArray(resized), size, size),
    channels: await Promise.all([0, 1, 2].map((index) => grayUrl(channel(index), CHANNEL_SIDE, CHANNEL_SIDE))),
    patch: range.map((row) => range.map((column) => [...resized.slice(4 * (row * size + column), 4 * (row * size + column) + 3)])),
  };
}

// The last feature map of each resolution, with the channels that differ most between the photo's regions.
function describeStages(tensors) {
  const last = new Map(tensors.map((tensor) => [tensor.dims.slice(2).join(), tensor]));
  const grid = tensors.at(-1)?.dims.slice(2);
  return Promise.all([...last.values()].map(async ({ data, dims: [, channels, height, width] }) => {
    const map = (index) => data.subarray(index * height * width, (index + 1) * height * width);
    const variances = Float64Array.from({ length: channels }, (_, index) => variance(pool(map(index), height, width, grid)));
    const chosen = largest([variances], NUM_CHANNELS).map(({ word: index }) => index);
    const images = chosen.map(async (index) => ({ index, image: await mapUrl(map(index), height, width) }));
    return { shape: [height, width, channels], channels: await Promise.all(images) };
  }));
}

// The means of a map (height, width) over the cells of a grid.
function pool(map, height, width, [gridRows, gridColumns]) {
  const bounds = (index, cells, size) => [Math.floor((index * size) / cells), Math.ceil(((index + 1) * size) / cells)];
  const means = [];
  for (let row = 0; row < gridRows; row++) {
    const [top, bottom] = bounds(row, gridRows, height);
    for (let column = 0; column < gridColumns; column++) {
      const [left, right] = bounds(column, gridColumns, width);
      let sum = 0;
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += map[y * width + x];
      means.push(sum / ((bottom - top) * (right - left)));
    }
  }
  return means;
}

function variance(values) {
  const mean = values.reduce((a, b) => a + b) / values.length;
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
}

// A feature map from black to white.
function mapUrl(map, height, width) {
  const [low, high] = [map.reduce((a, b) => Math.min(a, b)), map.reduce((a, b) => Math.max(a, b))];
  const gray = Uint8Array.from(map, (value) => (255 * (value - low)) / Math.max(high - low, 1e-6));
  const [newWidth, newHeight] = [width, height].map((side) => Math.min(side, MAP_SIDE));
  return grayUrl(resize(gray, width, height, 1, newWidth, newHeight), newWidth, newHeight);
}

function grayUrl(gray, width, height) {
  const pixels = new Uint8ClampedArray(4 * width * height).fill(255);
  gray.forEach((value, i) => pixels.fill(value, 4 * i, 4 * i + 3));
  return pictureUrl(pixels, width, height);
}

async function pictureUrl(pixels, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return new FileReaderSync().readAsDataURL(await canvas.convertToBlob());
}

function rows({ data, dims: [, count, length] }) {
  return Array.from({ length: count }, (_, row) => data.subarray(row * length, (row + 1) * length));
}

function round(values, digits) {
  return Array.from(values, (value) => Number(value.toFixed(digits)));
}
