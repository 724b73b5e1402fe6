// Occlusion: cover parts of the photo, caption it again, and see which words become less likely.

import { clearCanvas } from "./attention_map.js";
import { fill, formatPercent, texts } from "./i18n.js";
import { wordLabel } from "./word_buttons.js";

const BRUSH_RADIUS = 1 / 18; // of the photo

export function addOcclusion(viewer, watch) {
  const occlusion = new Occlusion(viewer);
  watch("occlusion", () => occlusion.renderResult(viewer.props.occlusion));
}

class Occlusion {
  #requestId = 0; // results of earlier requests are ignored
  #lastShown = null; // the index of the word that "cover where it looked" refers to

  constructor(viewer) {
    this.viewer = viewer;
    this.side = viewer.props.mask_side;
    this.cells = new Uint8Array(this.side * this.side); // 1 where the photo is covered
    viewer.addEventListener("answer", () => {
      this.#lastShown = null;
      this.uncover();
    });
    viewer.addEventListener("word", () => this.#offerToCoverWord());
    viewer.find(".brush").addEventListener("click", () => this.setBrush(!this.isBrushActive));
    viewer.find(".cover-word").addEventListener("click", () => this.coverWord(viewer.answer.words[this.#lastShown].map));
    viewer.find(".uncover").addEventListener("click", () => this.uncover());
    this.#addBrushEvents(viewer.frame);
    new ResizeObserver(() => this.drawMask()).observe(viewer.photo);
  }

  get isBrushActive() {
    return this.viewer.frame.classList.contains("painting");
  }

  drawMask() {
    const canvas = this.viewer.find(".mask");
    this.viewer.resizeCanvas(canvas);
    clearCanvas(canvas);
    const pixels = new ImageData(this.side, this.side);
    this.cells.forEach((cell, i) => pixels.data.set([128, 128, 128, 255 * cell], 4 * i));
    const grid = new OffscreenCanvas(this.side, this.side);
    grid.getContext("2d").putImageData(pixels, 0, 0);
    canvas.getContext("2d").drawImage(grid, 0, 0, canvas.width, canvas.height);
  }

  paint(event) {
    const { side } = this;
    const box = this.viewer.photo.getBoundingClientRect();
    const [x, y] = [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
    this.cells.forEach((_, i) => {
      const distance = Math.hypot((i % side) + 0.5 - x, Math.floor(i / side) + 0.5 - y);
      if (distance <= BRUSH_RADIUS * side) this.cells[i] = 1;
    });
    this.drawMask();
  }

  // Cover the fewest regions that hold half of the word's attention, but at most a quarter of the photo.
  coverWord(map) {
    const regions = Math.round(Math.sqrt(map.length));
    const order = [...map.keys()].sort((a, b) => map[b] - map[a]);
    const covered = new Set();
    let sum = 0;
    for (const region of order.slice(0, map.length / 4)) {
      if (sum >= 0.5) break;
      covered.add(region);
      sum += map[region];
    }
    this.cells.forEach((_, i) => {
      const place = [Math.floor(i / this.side), i % this.side];
      const [row, column] = place.map((cell) => Math.floor((cell * regions) / this.side));
      if (covered.has(row * regions + column)) this.cells[i] = 1;
    });
    this.drawMask();
    this.requestCaption();
  }

  requestCaption() {
    const { viewer } = this;
    viewer.stop();
    viewer.find(".uncover").hidden = false;
    this.#requestId += 1;
    const caption = viewer.answer.words.map(({ text }) => text).join(" ");
    viewer.trigger("caption_masked", { request_id: this.#requestId, mask: this.cells.join(""), caption });
  }

  uncover() {
    const { viewer } = this;
    this.cells.fill(0);
    this.drawMask();
    viewer.find(".occluded").hidden = viewer.find(".uncover").hidden = true;
    viewer.wordButtons.forEach((button, i) => {
      button.querySelector("small").textContent = formatPercent(viewer.answer.words[i].probability);
      button.setAttribute("aria-label", wordLabel(viewer.answer.words[i]));
      button.style.removeProperty("--drop");
    });
  }

  // Show each word's probability before and after covering.
  renderResult(result) {
    const { viewer } = this;
    if (!result || result.request_id !== this.#requestId || !this.cells.some(Boolean)) return;
    viewer.find(".occluded").hidden = false;
    viewer.find(".occluded-caption").textContent = result.caption;
    viewer.find(".announcement").textContent = `${texts.occluded_caption} ${result.caption}`;
    viewer.wordButtons.forEach((button, i) => {
      const [before, after] = [viewer.answer.words[i].probability, result.probabilities[i]];
      const values = { word: viewer.answer.words[i].text, before: formatPercent(before), after: formatPercent(after) };
      button.querySelector("small").textContent = `${values.before} → ${values.after}`;
      button.style.setProperty("--drop", Math.max(0, 1 - after / before));
      button.setAttribute("aria-label", fill(texts.word_occluded, values));
    });
  }

  setBrush(active) {
    this.viewer.frame.classList.toggle("painting", active);
    this.viewer.find(".brush").setAttribute("aria-pressed", String(active));
    if (active) this.viewer.highlightWords(null);
  }

  #offerToCoverWord() {
    const { shown, answer } = this.viewer;
    if (shown !== null) this.#lastShown = shown;
    const button = this.viewer.find(".cover-word");
    const word = answer.words?.[this.#lastShown];
    button.hidden = !word;
    if (word) button.textContent = fill(texts.cover_word, { word: word.text });
  }

  #addBrushEvents(frame) {
    frame.addEventListener("pointerdown", (event) => {
      if (!this.isBrushActive) return;
      event.preventDefault();
      frame.setPointerCapture(event.pointerId);
      this.paint(event);
    });
    frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && this.paint(event));
    frame.addEventListener("pointerup", (event) => frame.hasPointerCapture(event.pointerId) && this.requestCaption());
  }
}
