// An experiment: cover parts of the photo, caption it again, and see which words change or become less likely.

import { clearCanvas } from "./attention_map.js";
import { createElement } from "./dom.js";
import { fill, formatPercent, texts } from "./i18n.js";
import { addRoving } from "./roving.js";
import { wordLabel } from "./word_buttons.js";

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
      this.setTool(null);
      this.uncover();
    });
    viewer.addEventListener("word", () => this.#offerToCoverWord());
    for (const name of ["brush", "eraser"]) {
      viewer.find(`.${name}`).addEventListener("click", () => this.setTool(this.tool === name ? null : name));
    }
    viewer.find(".cover-word").addEventListener("click", () => this.coverWord(viewer.answer.words[this.#lastShown].map));
    viewer.find(".uncover").addEventListener("click", () => this.uncover());
    this.#addBrushEvents(viewer.frame);
    this.#addSentenceEvents(viewer.find(".covered-sentence"));
    new ResizeObserver(() => this.drawMask()).observe(viewer.photo);
  }

  // Choose what painting on the photo does: "brush", "eraser" or null, nothing.
  setTool(tool) {
    this.tool = tool;
    this.viewer.frame.classList.toggle("painting", Boolean(tool));
    for (const name of ["brush", "eraser"]) {
      this.viewer.find(`.${name}`).setAttribute("aria-pressed", String(name === tool));
    }
    if (tool) this.viewer.highlightWords(null);
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
    const radius = Number(this.viewer.find(".brush-size").value);
    const box = this.viewer.photo.getBoundingClientRect();
    const [x, y] = [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
    this.cells.forEach((_, i) => {
      const distance = Math.hypot((i % side) + 0.5 - x, Math.floor(i / side) + 0.5 - y);
      if (distance <= radius * side) this.cells[i] = this.tool === "eraser" ? 0 : 1;
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
    if (!this.cells.some(Boolean)) return this.uncover(); // all of it has been erased
    viewer.find(".uncover").disabled = false;
    viewer.find(".covered").hidden = false; // at once, so that nothing moves when the answer is there
    viewer.find(".covered-label").textContent = texts.covering;
    this.#requestId += 1;
    const caption = viewer.answer.words.map(({ text }) => text).join(" ");
    viewer.trigger("caption_masked", { request_id: this.#requestId, mask: this.cells.join(""), caption });
  }

  uncover() {
    const { viewer } = this;
    this.#requestId += 1;
    this.cells.fill(0);
    this.drawMask();
    viewer.find(".uncover").disabled = viewer.find(".covered").hidden = true;
    viewer.find(".covered-sentence").replaceChildren();
    viewer.wordButtons.forEach((button, i) => {
      button.querySelector("small").textContent = formatPercent(viewer.answer.words[i].probability);
      button.setAttribute("aria-label", wordLabel(viewer.answer.words[i]));
      button.style.removeProperty("--drop");
    });
  }

  // Show the second caption below the first one, and each word's probability before and after covering.
  renderResult(result) {
    const { viewer } = this;
    if (!result || result.request_id !== this.#requestId || !this.cells.some(Boolean)) return;
    const words = result.words.map((word) => ({ ...word, map: [...word.map].flat() }));
    const before = viewer.answer.words.map(({ text }) => text);
    const kept = commonWords(before, words.map(({ text }) => text));
    const unchanged = kept.size === words.length && words.length === before.length;
    viewer.find(".covered-label").textContent = unchanged ? texts.covered_unchanged : texts.occluded_caption;
    this.words = words;
    viewer.find(".covered-sentence").replaceChildren(
      ...words.map((word, i) => createCoveredWord(word, i, !kept.has(i))),
    );
    this.roving();
    viewer.wordButtons.forEach((button, i) => {
      const [earlier, later] = [viewer.answer.words[i].probability, result.probabilities[i]];
      const values = { word: viewer.answer.words[i].text, before: formatPercent(earlier), after: formatPercent(later) };
      button.querySelector("small").textContent = `${values.before} → ${values.after}`;
      button.style.setProperty("--drop", Math.max(0, 1 - later / earlier));
      button.setAttribute("aria-label", fill(texts.word_occluded, values));
    });
  }

  // The words of the second caption show their own maps.
  #addSentenceEvents(sentence) {
    this.roving = addRoving(sentence, "button");
    const show = (event) => {
      const button = event.target.closest("button");
      if (button) this.viewer.showMap(this.words[button.dataset.index].map);
    };
    for (const type of ["pointerover", "focusin", "click"]) sentence.addEventListener(type, show);
    for (const type of ["pointerleave", "focusout"]) {
      sentence.addEventListener(type, () => this.viewer.showWord(this.viewer.pinned));
    }
  }

  #offerToCoverWord() {
    const { shown, answer } = this.viewer;
    if (shown !== null) this.#lastShown = shown;
    const button = this.viewer.find(".cover-word");
    const word = answer.words?.[this.#lastShown];
    button.disabled = !word;
    button.textContent = word ? fill(texts.cover_word, { word: word.text }) : texts.cover_no_word;
  }

  #addBrushEvents(frame) {
    frame.addEventListener("pointerdown", (event) => {
      if (!this.tool) return;
      event.preventDefault();
      frame.setPointerCapture(event.pointerId);
      this.paint(event);
    });
    frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && this.paint(event));
    frame.addEventListener("pointerup", (event) => frame.hasPointerCapture(event.pointerId) && this.requestCaption());
  }
}

function createCoveredWord({ text, probability }, index, changed) {
  const button = createElement("button", changed ? "changed" : "", text);
  button.dataset.index = index;
  const label = fill(changed ? texts.covered_changed : texts.covered_word, { word: text, percent: formatPercent(probability) });
  button.setAttribute("aria-label", label);
  button.title = label;
  return button;
}

// The indices of the words of `after` that also stand in `before`, in the same order (a longest common subsequence).
function commonWords(before, after) {
  const lengths = Array.from({ length: before.length + 1 }, () => Array(after.length + 1).fill(0));
  for (let i = before.length - 1; i >= 0; i--) {
    for (let j = after.length - 1; j >= 0; j--) {
      const same = before[i] === after[j];
      lengths[i][j] = same ? 1 + lengths[i + 1][j + 1] : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const kept = new Set();
  for (let [i, j] = [0, 0]; i < before.length && j < after.length; ) {
    if (before[i] === after[j]) {
      kept.add(j);
      i += 1;
      j += 1;
    } else if (lengths[i + 1][j] >= lengths[i][j + 1]) i += 1;
    else j += 1;
  }
  return kept;
}
