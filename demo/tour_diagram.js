// The diagram of the tour: nine parts in a square, each beside those that it gives to.
//
//     photo  -> encoder -> regions
//                             |
//     words  -> first   -> attention
//       ^         |           |
//      word  <- second  <- context

import { drawSmoothMap } from "./attention_map.js";
import { createElement } from "./dom.js";
import { fill, formatPercent, texts } from "./i18n.js";
import { createStrip } from "./tour_figures.js";

const PARTS = ["photo", "encoder", "regions", "words", "first", "attention", "word", "second", "context"];
const ARROWS = {
  "photo-encoder": "→",
  "encoder-regions": "→",
  "regions-attention": "↓",
  "words-first": "→",
  "first-attention": "→",
  "first-second": "↓",
  "attention-context": "↓",
  "context-second": "←",
  "second-word": "←",
  "word-words": "↑",
};

export class Diagram {
  constructor(element) {
    this.element = element;
    this.parts = Object.fromEntries(PARTS.map((name) => [name, this.#createPart(name)]));
    this.arrows = Object.fromEntries(Object.entries(ARROWS).map(([name, sign]) => [name, createArrow(name, sign)]));
    element.append(...Object.values(this.parts), ...Object.values(this.arrows));
  }

  #createPart(name) {
    const part = createElement("div", "part");
    part.style.gridArea = name;
    part.append(createElement("b", ""), createElement("div", "content"));
    return part;
  }

  // Show what the parts hold for the chosen word, and light those of a step.
  render(tour, lit, title) {
    const { trace, current } = tour;
    const nameOf = (name) => fill(texts.tour_parts[name], { rnn: trace.rnn });
    const chosen = current.candidates.find(({ word }) => word === current.output);
    const contents = {
      photo: createPhoto(trace),
      encoder: createElement("span", "", encoderName(trace)),
      regions: createPhoto(trace, createElement("i", "grid")),
      words: createElement("span", "", wordsSoFar(tour)),
      first: createStrip(current.state, ""),
      attention: createPhoto(trace, createMap(tour.meanWeights)),
      context: createStrip(current.context, ""),
      second: createStrip(current.second_state ?? current.context, ""),
      word: createElement("span", "said", current.output),
    };
    if (chosen) contents.word.append(createElement("small", "", formatPercent(chosen.probability)));
    for (const [name, part] of Object.entries(this.parts)) {
      part.querySelector("b").textContent = nameOf(name);
      part.querySelector(".content").replaceChildren(contents[name]);
      part.classList.toggle("lit", lit.includes(name));
    }
    for (const [name, arrow] of Object.entries(this.arrows)) {
      arrow.classList.toggle("lit", name.split("-").every((part) => lit.includes(part)));
    }
    const parts = lit.map(nameOf).join(", ");
    this.element.setAttribute("aria-label", fill(texts.tour_diagram, { title, parts }));
  }
}

function createArrow(name, sign) {
  const arrow = createElement("i", "arrow", sign);
  arrow.style.gridArea = name;
  return arrow;
}

function createPhoto(trace, overlay) {
  const box = createElement("div", "thumbnail");
  const image = createElement("img", "");
  image.src = trace.pixels.photo;
  image.alt = "";
  box.append(image, ...(overlay ? [overlay] : []));
  return box;
}

function createMap(weights) {
  const canvas = createElement("canvas", "");
  canvas.width = canvas.height = 64;
  drawSmoothMap(canvas, weights, { blur: 0.5, strength: 1.2 });
  return canvas;
}

// inception_v3 -> Inception-v3
export function encoderName({ encoder }) {
  return encoder.replace(/^./, (letter) => letter.toUpperCase()).replaceAll("_", "-");
}

// What the first RNN has read before the chosen word.
export function wordsSoFar({ trace, word }) {
  return trace.steps.slice(0, word + 1).map(({ input }) => input).join(" ");
}
