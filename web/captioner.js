// The captioner, from pixels to an explained caption: runs the ONNX files that publishing/export.py describes.

import { largest, logSoftmax, search } from "./search.js";
import { resize } from "./resize.js";

const ALTERNATIVES = 5;

export class Captioner {
  // Load the captioner in `folder`, a model repository with an ONNX export. `ort` is the module onnxruntime-web.
  static async load(ort, folder) {
    const json = async (name) => (await download(folder + name)).json();
    const urlOf = (name) => `${folder}onnx/${name}_quantized.onnx`;
    const session = async (name) => {
      const file = await (await download(urlOf(name))).arrayBuffer();
      return ort.InferenceSession.create(new Uint8Array(file));
    };
    const [config, generation, processor, tokenizer, encoder, decoder] = await Promise.all([
      ...["config", "generation_config", "processor_config", "tokenizer"].map((name) => json(`${name}.json`)),
      session("encoder_model"),
      session("decoder_model_merged"),
    ]);
    const encoderUrl = urlOf("encoder_model");
    return new Captioner({ ort, config, generation, processor, tokenizer, encoder, encoderUrl, decoder });
  }

  // `gpu` may become a session that runs the same encoder on the GPU; see gpu.js.
  constructor({ ort, config, generation, processor, tokenizer, encoder, encoderUrl, decoder }) {
    Object.assign(this, { Tensor: ort.Tensor, config, images: processor.image_processor });
    Object.assign(this, { encoder, encoderUrl, decoder, gpu: null });
    this.settings = { eos_token_id: config.eos_token_id, ...generation };
    this.ends = [this.settings.eos_token_id].flat();
    this.ids = new Map(Object.entries(tokenizer.model.vocab));
    this.words = new Map([...this.ids].map(([word, id]) => [id, word]));
    this.extraSpace = extraSpacePattern(tokenizer);
    this.rnns = decoder.inputNames.filter((name) => name.startsWith("past_key_values.")).map((name) => name.slice(16));
  }

  // Encode a photo, an ImageData without transparency. Returns what the other methods take as `photo`.
  async encode({ data, width, height }) {
    const { size: { height: side }, rescale_factor: factor, image_mean: mean, image_std: std } = this.images;
    const pixels = resize(data, width, height, 4, side, side);
    const values = new Float32Array(3 * side * side);
    for (let channel = 0; channel < 3; channel++) {
      for (let i = 0; i < side * side; i++) {
        values[channel * side * side + i] = (pixels[4 * i + channel] * factor - mean[channel]) / std[channel];
      }
    }
    const output = await this.runEncoder({ pixel_values: new this.Tensor("float32", values, [1, 3, side, side]) });
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

  // Caption a photo. The caption begins with the words of `text`; `settings` override generation_config.json.
  // Returns the dictionary of `Explanation.to_dict` in modeling_captioner/explanation.py; maps are in row-major order.
  async caption(photo, text, settings) {
    const prompt = [this.config.decoder_start_token_id, ...this.encodeText(text)];
    const states = photo.states.map(splitRows);
    const beams = await search(this.decoderStep(photo), states, prompt, { ...this.settings, ...settings });
    const words = await this.explain(photo, [...prompt, ...beams[0].ids]);
    const begun = words.slice(0, prompt.length - 1).reduce((sum, word) => sum + Math.log(word.probability), 0);
    const captions = beams.map(({ ids, logProbability }) => ({
      caption: this.decode([...prompt.slice(1), ...ids]),
      log_probability: begun + logProbability,
    }));
    return { ...captions[0], words: words.filter(({ id }) => !this.ends.includes(id)), beams: captions };
  }

  // The probability of each word of `caption`, as if the model had generated it.
  async probabilities(photo, caption) {
    const words = await this.explain(photo, [this.config.decoder_start_token_id, ...this.encodeText(caption)]);
    return words.map(({ probability }) => probability);
  }

  // Each word of a caption, ids that begin with <start>: its probability, attention map and alternatives.
  async explain(photo, ids) {
    const step = this.decoderStep(photo);
    let [logits, states, attention] = [null, photo.states.map(splitRows), null];
    const words = [];
    for (let position = 1; position < ids.length; position++) {
      [logits, states, attention] = await step([ids[position - 1]], states);
      const scores = logSoftmax(logits[0]);
      words.push({
        id: ids[position],
        text: this.words.get(ids[position]),
        probability: Math.exp(scores[ids[position]]),
        map: meanOfHeads(attention[0], photo.regions.dims[1]),
        alternatives: largest([scores], ALTERNATIVES).map(({ word, value }) => ({
          word: this.words.get(word),
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

  encodeText(text) {
    const words = text ? text.split(" ") : [];
    return words.map((word) => this.ids.get(word) ?? this.config.unk_token_id);
  }

  decode(ids) {
    const words = ids.filter((id) => !this.ends.includes(id)).map((id) => this.words.get(id));
    return this.extraSpace ? words.join(" ").replace(this.extraSpace, "") : words.join(" ");
  }
}

// Which spaces between words are none, such as between Chinese characters: the pattern in the tokenizer's decoder, see
// train/data/vocabulary.py, as JavaScript writes it.
function extraSpacePattern({ decoder }) {
  if (!decoder) return null;
  const pattern = decoder.decoders.at(-1).pattern.Regex;
  return new RegExp(pattern.replace(/\\p\{(\w\w+)\}/g, "\\p{Script=$1}").replace("\\z", "$"), "gu");
}

async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
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
