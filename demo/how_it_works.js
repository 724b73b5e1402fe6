// Shows the intermediate results of demo/how_it_works_tab.py for the visitor's photo.

import { drawSmoothMap } from "./attention_map.js";
import { createElement, fillTexts } from "./dom.js";
import { fill, formatNumber, formatPercent, texts } from "./i18n.js";
import { addTransferLearning } from "./transfer_learning.js";

// Show `props.value`, a trace, in `element`, which contains how_it_works.html. `server.tokenize(text)` is a promise of
// [word, id] pairs.
export function mountHowItWorks({ element, props, server, watch }) {
  fillTexts(element);
  const board = new HowItWorks(element, server);
  watch("value", () => board.render(props.value));
  board.render(props.value);
}

class HowItWorks {
  #trace = {};
  #step = 0; // index of the selected word
  #head = 0; // index of the selected attention head

  constructor(element, server) {
    Object.assign(this, { element, server });
    this.renderTransfer = addTransferLearning((selector) => this.find(selector), (...text) => this.explain(...text));
    this.find(".tokenizer-input").addEventListener("input", () => this.tokenize());
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  explain(name, values) {
    this.find(`.${name}-text`).textContent = fill(texts[`how_${name}_text`], values);
  }

  renderPixels({ original_size: [width, height], size, photo, channels, patch }) {
    this.explain("pixels", { width, height, size });
    this.find(".resized").src = photo;
    this.find(".resized").alt = texts.photo;
    this.find(".channels").replaceChildren(
      ...channels.map((source, i) => {
        const figure = createElement("figure", ["red", "green", "blue"][i]);
        const image = createElement("img", "");
        image.src = source;
        image.alt = "";
        figure.append(image, createElement("figcaption", "", texts.how_colours[i]));
        return figure;
      }),
    );
    this.find(".patch").replaceChildren(
      ...patch.flat().map((pixel) => {
        const cell = createElement("span", "");
        cell.append(...pixel.map((value) => createElement("b", "", value)));
        cell.style.background = `rgb(${pixel})`;
        cell.style.color = isLight(pixel) ? "black" : "white";
        return cell;
      }),
    );
  }

  renderStages(stages, encoder) {
    const last = stages.at(-1)?.shape ?? [];
    const name = encoder.replace(/^./, (letter) => letter.toUpperCase()).replaceAll("_", "-"); // inception_v3 -> Inception-v3
    this.explain("stages", { encoder: name, channels: last[2], regions: last[0] * last[1] });
    this.find(".stages").replaceChildren(
      ...stages.map(({ shape, channels }) => {
        const item = createElement("li", "");
        const dimensions = shape.map((size) => formatNumber(size)).join(" × ");
        item.append(createElement("strong", "", dimensions), createSizeBox(shape, last[2], stages[0].shape[0]));
        for (const { index, image: source } of channels) {
          const image = createElement("img", "");
          image.src = source;
          image.alt = image.title = fill(texts.how_channel, { index: String(index) });
          item.append(image);
        }
        return item;
      }),
    );
  }

  renderHeads(heads) {
    this.find(".heads").replaceChildren(
      ...heads.map((map, i) => {
        const button = createElement("button", "head");
        const canvas = createElement("canvas", "");
        canvas.width = canvas.height = 112;
        canvas.style.backgroundImage = `url(${this.#trace.pixels.photo})`;
        drawSmoothMap(canvas, map, { blur: 0.3, strength: 1.2 });
        button.append(canvas, createElement("span", "", fill(texts.how_head, { index: i + 1 })));
        button.setAttribute("aria-pressed", String(i === this.#head));
        button.addEventListener("click", () => {
          this.#head = i;
          this.renderStep();
        });
        return button;
      }),
    );
  }

  // Softmax is invariant to adding a constant to all scores, so scores are shown relative to the highest.
  renderScores(map) {
    const maximum = Math.max(...map);
    const side = Math.round(Math.sqrt(map.length));
    const order = [...map.keys()].sort((a, b) => map[b] - map[a]);
    const row = (tag, cells) => {
      const line = createElement("tr", "");
      line.append(...cells.map((cell) => createElement(tag, "", cell)));
      return line;
    };
    const exponentials = map.map((weight) => weight / maximum);
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    this.find(".scores thead").replaceChildren(row("th", texts.how_columns));
    this.find(".scores tbody").replaceChildren(
      ...order.slice(0, 5).map((region) => {
        const score = Math.log(exponentials[region]);
        const position = `${Math.floor(region / side) + 1}, ${(region % side) + 1}`;
        const weights = [exponentials[region], map[region]].map((value) => formatNumber(value, 3));
        return row("td", [position, formatNumber(score, 2), ...weights]);
      }),
    );
    const sums = [sum(exponentials), sum(map)].map((value) => formatNumber(value, 3));
    this.find(".scores tfoot").replaceChildren(row("td", [fill(texts.how_all, { regions: map.length }), "", ...sums]));
  }

  renderStep() {
    const current = this.#trace.steps[this.#step];
    const prefix = this.#trace.steps.slice(1, this.#step + 1).map(({ input }) => input).join(" ");
    [...this.find(".steps").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === this.#step)));
    this.explain("rnn", { words: prefix ? `“${prefix}”` : texts.how_start_only, hidden: this.#trace.hidden_size });
    renderStrip(this.find(".state"), current.state, texts.how_state);
    this.#head = Math.min(this.#head, current.heads.length - 1);
    this.explain("attention", { regions: this.#trace.regions, heads: current.heads.length });
    this.renderHeads(current.heads);
    this.renderScores(current.heads[this.#head]);
    const percent = formatPercent(current.candidates[0].probability);
    this.explain("next", { size: this.#trace.vocabulary.size, word: current.output, percent });
    renderStrip(this.find(".context"), current.context, texts.how_context);
    this.find(".candidates").replaceChildren(
      ...current.candidates.map(({ word, probability }) => {
        const item = createElement("li", word === current.output ? "chosen" : "", word);
        item.append(createElement("small", "", formatPercent(probability)));
        item.style.setProperty("--probability", probability);
        return item;
      }),
    );
  }

  render(value) {
    this.#trace = JSON.parse(JSON.stringify(value || {})); // a copy, because Gradio tracks changes of its own
    this.find(".loading").hidden = Boolean(this.#trace.steps);
    this.find(".how-it-works").hidden = !this.#trace.steps;
    if (!this.#trace.steps) return;
    this.renderPixels(this.#trace.pixels);
    this.renderStages(this.#trace.stages, this.#trace.encoder);
    this.renderTransfer(this.#trace.transfer, this.#trace.stages.at(-1)?.shape[2]);
    this.explain("vocabulary", { size: this.#trace.vocabulary.size });
    this.find(".vocabulary").replaceChildren(...this.#trace.vocabulary.words.map(createToken));
    this.#step = Math.min(1, this.#trace.steps.length - 1);
    this.find(".steps").setAttribute("aria-label", texts.how_steps);
    this.find(".steps").replaceChildren(
      ...this.#trace.steps.map(({ output }, i) => {
        const button = createElement("button", "", output);
        button.addEventListener("click", () => {
          this.#step = i;
          this.renderStep();
        });
        return button;
      }),
    );
    this.renderStep();
    this.explain("end", {});
    this.find(".full-caption").textContent = ["<start>", ...this.#trace.steps.map(({ output }) => output)].join(" ");
    this.tokenize();
  }

  async tokenize() {
    const tokens = await this.server.tokenize(this.find(".tokenizer-input").value);
    this.find(".tokens").replaceChildren(...tokens.map(createToken));
  }
}

// Whether black text has more contrast than white text, by the relative luminance of WCAG 2.
function isLight(pixel) {
  const [red, green, blue] = pixel.map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18;
}

// Height: rows. Width: square root of the channels, because the first stage would otherwise be too thin to see.
function createSizeBox([rows, , channels], maxChannels, maxRows) {
  const size = createElement("span", "size");
  const box = createElement("i", "");
  box.style.height = `${(100 * rows) / maxRows}%`;
  box.style.width = `${100 * Math.sqrt(channels / maxChannels)}%`;
  size.append(box);
  return size;
}

function createToken([word, id]) {
  const item = createElement("li", id === 1 ? "unknown" : "", word);
  item.append(createElement("small", "", id));
  return item;
}

function renderStrip(canvas, values, label) {
  canvas.width = values.length;
  canvas.height = 1;
  const largest = Math.max(...values.map(Math.abs), 1e-6);
  const pixels = new ImageData(values.length, 1);
  values.forEach((value, i) => {
    const colour = value < 0 ? [37, 99, 235] : [234, 88, 12];
    pixels.data.set([...colour, 255 * Math.abs(value / largest)], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.setAttribute("aria-label", label);
}
