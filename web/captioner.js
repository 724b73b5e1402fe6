// The captioner, from pixels to an explained caption: runs the ONNX files that publishing/onnx/export.py
// describes.

import { confidenceOf } from "./confidence.js";
import { largest, logSoftmax, search } from "./search.js";
import { resize } from "./resize.js";
import { loadRuntime } from "./runtime.js";
import { Tokenizer } from "./tokenizer.js";

const ALTERNATIVES = 5;

export class Captioner {
  // Load the captioner in model/ of a site. `files` is its Downloader.
  static async load(files) {
    const names = ["encoder_model_quantized", "decoder_model_merged_quantized"];
    const [encoderPath, decoderPath] = names.map((name) => `model/onnx/${name}.onnx.gzip`);
    const [ort, config, generation, processor, words, ...models] = await Promise.all([
      loadRuntime("cpu", files),
      ...["config", "generation_config", "processor_config"].map((name) => files.json(`model/${name}.json`)),
      ...["model/tokenizer.json.gzip", encoderPath, decoderPath].map((path) => files.get(path)),
    ]);
    const tokenizer = JSON.parse(new TextDecoder().decode(words));
    const sessions = models.map((model) => ort.InferenceSession.create(new Uint8Array(model)));
    const [encoder, decoder] = await Promise.all(sessions);
    const captioner = new Captioner({ ort, config, generation, processor, tokenizer, encoder, decoder });
    return Object.assign(captioner, { ort, files, encoderPath, decoderPath });
  }

  // `gpu` may become a session that runs the same encoder on the GPU; see gpu.js.
  constructor({ ort, config, generation, processor, tokenizer, encoder, decoder }) {
    Object.assign(this, { Tensor: ort.Tensor, config, images: processor.image_processor, encoder, decoder, gpu: null });
    const { eos_token_id, decoder_start_token_id } = config;
    this.settings = { eos_token_id, decoder_start_token_id, ...generation };
    this.languages = config.languages ?? []; // the first is the default
    this.ends = [this.settings.eos_token_id].flat();
    this.tokenizer = new Tokenizer(tokenizer);
    this.rnns = decoder.inputNames.filter((name) => name.startsWith("past_key_values.")).map((name) => name.slice(16));
  }

  // The settings of a language, with `overrides` in their place.
  settingsOf({ language = this.languages[0], ...overrides } = {}) {
    if (language !== undefined && !this.languages.includes(language)) {
      throw new Error(`language='${language}' is unknown; choose one of ${this.languages.join(", ")}.`);
    }
    return { ...this.settings, ...this.settings.languages?.[language], ...overrides, language };
  }

  // The encoder's input: an ImageData without transparency, resized and normalized.
  preprocess({ data, width, height }) {
    const { size: { height: side }, rescale_factor: factor, image_mean: mean, image_std: std } = this.images;
    const pixels = resize(data, width, height, 4, side, side);
    const values = new Float32Array(3 * side * side);
    for (let channel = 0; channel < 3; channel++) {
      for (let i = 0; i < side * side; i++) {
        values[channel * side * side + i] = (pixels[4 * i + channel] * factor - mean[channel]) / std[channel];
      }
    }
    return { pixel_values: new this.Tensor("float32", values, [1, 3, side, side]) };
  }

  // Encode a photo, an ImageData without transparency. Returns what the other methods take as `photo`.
  async encode(pixels) {
    const output = await this.runEncoder(this.preprocess(pixels));
    return { regions: output.last_hidden_state, states: this.rnns.map((name) => output[`present.${name}`]) };
  }

  async runEncoder(inputs) {
    if (this.gpu) {
      try {
        return await this.gpu.run(inputs);
      } catch (error) {
        console.warn(error);
        this.gpu = null; // lost, such as when a laptop wakes up
      }
    }
    return this.encoder.run(inputs);
  }

  // Caption a photo. The caption begins with the words of `text`; `options` are a language and settings that override
  // those of generation_config.json. Returns `Explanation.to_dict()`; maps are in row-major order.
  async caption(photo, text, options) {
    const { language, ...settings } = this.settingsOf(options);
    const prompt = [settings.decoder_start_token_id, ...this.tokenizer.encode(text)];
    const states = photo.states.map(splitRows);
    const beams = await search(this.decoderStep(photo), states, prompt, settings);
    const words = await this.explain(photo, [...prompt, ...beams[0].ids]);
    const begun = words.slice(0, prompt.length - 1).reduce((sum, word) => sum + Math.log(word.probability), 0);
    const captions = beams.map(({ ids, logProbability }) => ({
      caption: this.decode([...prompt.slice(1), ...ids]),
      log_probability: begun + logProbability,
    }));
    return {
      ...captions[0],
      language,
      words: words.filter(({ id }) => !this.ends.includes(id)),
      beams: captions,
      confidence: this.confidence(words, language),
    };
  }

  // What `caption` returns, for a caption that is given.
  async explainCaption(photo, caption, options) {
    const { language, decoder_start_token_id: start } = this.settingsOf(options);
    const words = await this.explain(photo, [start, ...this.tokenizer.encode(caption), this.ends[0]]);
    const logProbability = words.reduce((sum, { probability }) => sum + Math.log(probability), 0);
    const confidence = this.confidence(words, language);
    return { caption, log_probability: logProbability, language, words: words.slice(0, -1), beams: [], confidence };
  }

  // `words`: what `explain` returns, with the end
  confidence(words, language) {
    return confidenceOf(words.map(({ probability }) => probability), this.config.confidence, language);
  }

  // The probability of each word of `caption`, as if the model had generated it.
  async probabilities(photo, caption, options) {
    const { decoder_start_token_id: start } = this.settingsOf(options);
    const words = await this.explain(photo, [start, ...this.tokenizer.encode(caption)]);
    return words.map(({ probability }) => probability);
  }

  // Each word of a caption, ids that begin with the first token: its probability, attention map and alternatives.
  async explain(photo, ids) {
    const step = this.decoderStep(photo);
    let [logits, states, attention] = [null, photo.states.map(splitRows), null];
    const words = [];
    for (let position = 1; position < ids.length; position++) {
      [logits, states, attention] = await step([ids[position - 1]], states);
      const scores = logSoftmax(logits[0]);
      words.push({
        id: ids[position],
        text: this.tokenizer.word(ids[position]),
        probability: Math.exp(scores[ids[position]]),
        map: meanOfHeads(attention[0], photo.regions.dims[1]),
        alternatives: largest([scores], ALTERNATIVES).map(({ word, value }) => ({
          word: this.tokenizer.word(word),
          probability: Math.exp(value),
        })),
      });
    }
    return words;
  }

  // What `search` calls for each word; it also returns the attention weights of each beam, (heads * regions).
  decoderStep({ regions, states: initial }) {
    return async (words, states) => {
      const beams = words.length;
      const inputs = {
        input_ids: new this.Tensor("int64", BigInt64Array.from(words, BigInt), [beams, 1]),
        encoder_hidden_states: this.joinRows(Array(beams).fill(regions.data), regions.dims),
      };
      this.rnns.forEach((name, i) => {
        inputs[`past_key_values.${name}`] = this.joinRows(states[i], initial[i].dims);
      });
      const output = await this.decoder.run(inputs);
      const next = this.rnns.map((name) => splitRows(output[`present.${name}`]));
      return [splitRows(output.logits), next, splitRows(output.cross_attentions)];
    };
  }

  // A tensor of the rows, each with the shape (1, ...) `dims`.
  joinRows(rows, [, ...dims]) {
    const data = new Float32Array(rows.length * rows[0].length);
    rows.forEach((row, i) => data.set(row, i * row.length));
    return new this.Tensor("float32", data, [rows.length, ...dims]);
  }

  decode(ids) {
    return this.tokenizer.decode(ids.filter((id) => !this.ends.includes(id)));
  }
}

// The rows of a tensor (rows, ...), flattened.
function splitRows({ data, dims: [count] }) {
  const length = data.length / count;
  return Array.from({ length: count }, (_, row) => data.subarray(row * length, (row + 1) * length));
}

// (heads * regions) -> an array of regions
function meanOfHeads(weights, regions) {
  const heads = weights.length / regions;
  return Array.from({ length: regions }, (_, region) => {
    let sum = 0;
    for (let head = 0; head < heads; head++) sum += weights[head * regions + region];
    return sum / heads;
  });
}
