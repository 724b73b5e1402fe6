// A photo with its caption, and the attention map of the word under the pointer.

import { clearCanvas, drawRegionMap, drawSmoothMap, maxWeight, outlineRegion, sharpness } from "./attention_map.js";
import { fillTexts } from "./dom.js";
import { addHistory } from "./history.js";
import { fill, formatPercent, language, texts } from "./i18n.js";
import { addOcclusion } from "./occlusion.js";
import { addPageState } from "./page_state.js";
import { addRoving } from "./roving.js";
import { addSentence } from "./sentence.js";
import { acceptPhotos } from "./upload.js";
import { createBeam, createWord } from "./word_buttons.js";

const LOW_CONFIDENCE = 0.3; // as README.md sets captions aside for a person

// Show the viewer in `element`, which contains attention_viewer.html. The arguments are those of a script of Gradio's HTML
// component; the page without a server passes the same: `props.value` is the answer that is shown, with all maps, so that
// exploring them needs no requests (`pending`: there is no caption yet); `watch(name, callback)` calls back when a property
// has changed, `trigger(event, data)` tells the page what the visitor wants, `upload(file)`, if any, sends a photo. With
// `props.corrections`, it offers to correct the caption; with `props.remembered`, the page's address holds what it shows (`props.reopen`, see
// addPageState). Returns the viewer.
export function mountViewer({ element, props, trigger, upload, watch }) {
  const viewer = new AttentionViewer(element, props, trigger);
  addSentence(viewer);
  addHistory(viewer);
  addOcclusion(viewer, watch);
  if (upload) acceptPhotos(viewer, upload);
  if (props.remembered) addPageState(viewer, props.reopen);
  watch("value", () => viewer.render());
  viewer.render();
  return viewer;
}

// Dispatches "answer" when it has rendered another answer, "pin" when the visitor has pinned a word or none, and "word" when
// another word (`shown`) or none is shown.
class AttentionViewer extends EventTarget {
  answer = {};
  shown = null; // the index of the word whose map is drawn
  pinned = null; // the index of the clicked word, whose map stays when the pointer leaves
  #hoveredRegion = null;
  #timer = null; // set while the words are played one after another
  #hadPhoto = false; // whether the visitor has chosen a photo
  #rendered = null; // the server's answer that is shown, as JSON
  #mapOptions = { regions: false, blur: 0.5, strength: 1 };
  #otherMap = null; // drawn instead of the shown word's, such as that of a word of another caption

  constructor(element, props, trigger) {
    super();
    Object.assign(this, { element, props, trigger });
    this.panel = element.closest(".caption-panel"); // also contains the photo input
    for (const name of ["viewer", "frame", "photo", "words"]) this[name] = this.find(`.${name}`);
    this.canvas = this.find(".map");
    fillTexts(element);
    this.find(".correct").hidden = !props.corrections;
    this.find(".hint").textContent = matchMedia("(hover: none)").matches ? texts.hint_touch : texts.hint;
    this.roving = addRoving(this.words, ".word");
    this.#addWordEvents();
    this.#addPhotoEvents();
    this.#addToolbarEvents();
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  get wordButtons() {
    return [...this.words.querySelectorAll(".word")];
  }

  // Draw another map than that of a word of the caption, or that one again (null).
  showMap(map) {
    this.#otherMap = map;
    this.drawMap();
  }

  // Give a canvas that lies on the photo one pixel for each pixel of the screen.
  resizeCanvas(canvas) {
    const box = this.photo.getBoundingClientRect();
    const [width, height] = [box.width, box.height].map((size) => Math.max(1, Math.round(size * devicePixelRatio)));
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
  }

  drawMap() {
    this.resizeCanvas(this.canvas);
    clearCanvas(this.canvas); // maps are translucent: the last one would shine through
    const { words = [] } = this.answer ?? {}; // none while a photo is captioned, or after an error
    if (this.#hoveredRegion !== null) {
      outlineRegion(this.canvas, this.#hoveredRegion, Math.round(Math.sqrt(words[0].map.length)));
    }
    const map = this.#otherMap ?? words[this.shown]?.map;
    if (map) this.paintMap(this.canvas, map);
  }

  paintMap(canvas, map) {
    if (this.#mapOptions.regions) drawRegionMap(canvas, map, this.#mapOptions);
    else drawSmoothMap(canvas, map, this.#mapOptions);
  }

  showWord(index) {
    this.shown = index;
    this.#otherMap = null;
    this.wordButtons.forEach((button, i) => button.classList.toggle("shown", i === index));
    this.dispatchEvent(new Event("word"));
    this.drawMap();
  }

  togglePin(index) {
    this.#pin(this.pinned === index ? null : index);
    this.showWord(this.pinned);
    this.dispatchEvent(new Event("pin"));
  }

  #pin(index) {
    this.pinned = index;
    this.wordButtons.forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === this.pinned));
      button.parentElement.classList.toggle("open", i === this.pinned);
    });
  }

  // Highlight the words by the attention that they pay to a region of the photo.
  highlightWords(region) {
    if (region === this.#hoveredRegion) return;
    this.#hoveredRegion = region;
    this.wordButtons.forEach((button, i) => {
      const { map } = this.answer.words[i];
      button.style.setProperty("--attention", region === null ? 0 : map[region] / maxWeight(map));
    });
    this.showWord(region === null ? this.pinned : null);
  }

  #regionAt(event) {
    const box = this.photo.getBoundingClientRect();
    const side = Math.round(Math.sqrt(this.answer.words[0].map.length));
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return null;
    return Math.floor(y * side) * side + Math.floor(x * side);
  }

  // Show the words' maps one after another. With `reveal`, each word is hidden until its turn.
  play(reveal) {
    this.stop();
    const items = [...this.words.children];
    if (reveal) items.forEach((item) => item.classList.add("upcoming"));
    let index = 0;
    const step = () => {
      if (index === items.length) return this.stop();
      items[index].classList.remove("upcoming");
      this.showWord(index++);
      this.#timer = setTimeout(step, reveal ? 320 : 900);
    };
    this.find(".play").textContent = texts.stop;
    step();
  }

  stop() {
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
    for (const item of this.words.children) item.classList.remove("upcoming");
    this.find(".play").textContent = texts.play;
    this.showWord(this.pinned);
  }

  // Keep the words before `index`, put `word` in its place, and let the decoder continue from there.
  #continueCaption(index, word) {
    if (word === this.answer.words[index].text) return; // it stands there already
    const prefix = this.answer.words.slice(0, index).map(({ text }) => text);
    this.trigger("continue_caption", { text: [...prefix, word].join(" ") });
  }

  render() {
    const value = JSON.stringify(this.props.value || {});
    if (value === this.#rendered) {
      // Asked for twice, such as by a new photo and by a setting. What the visitor did with the first one stays.
      this.panel.classList.remove("waiting");
      return;
    }
    const answer = JSON.parse(value); // a copy, because Gradio tracks changes of its own
    // Such as the example's caption in another language, which was asked for before the photo came.
    if (answer.opening && this.#hadPhoto) return;
    this.#hadPhoto ||= !answer.opening && Boolean(answer.photo || answer.message);
    for (const word of answer.words || []) word.map = word.map.flat();
    this.show(answer);
    this.#rendered = value;
  }

  // Show an answer whose maps are in row-major order.
  show(answer) {
    this.#rendered = null;
    this.stop();
    this.answer = answer;
    this.pinned = this.shown = this.#hoveredRegion = null;
    this.#renderMessage(answer);
    const focused = document.activeElement; // may be removed below
    const keyboardFocus = focused?.matches(":focus-visible") && this.viewer.contains(focused);
    this.viewer.hidden = !answer.photo;
    this.panel.classList.remove("waiting");
    this.panel.classList.toggle("has-caption", Boolean(answer.photo));
    this.panel.classList.toggle("opening", Boolean(answer.opening));
    if (!answer.photo) {
      this.words.replaceChildren();
      if (keyboardFocus) this.panel.querySelector(".photo-input button")?.focus();
      return;
    }
    this.#renderCaption(answer);
    this.panel.shownCaption = answer.caption; // what the other parts of the page speak about
    this.#pin(answer.resting ?? sharpestWord(answer.words));
    this.dispatchEvent(new Event("answer"));
    this.showWord(this.pinned);
    if (keyboardFocus && !focused.isConnected) this.wordButtons[Math.max(0, answer.prefix_length - 1)]?.focus();
    else if (answer.words.length && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play(true);
  }

  showMessage(text) {
    const message = this.find(".message");
    message.textContent = text;
    message.hidden = !text;
  }

  #renderMessage(answer) {
    // A photo that cannot be opened is removed from the input to make room for the next; its message stays until then.
    if (answer.message || answer.photo) {
      this.showMessage(answer.message || (answer.words.length || answer.pending ? "" : texts.empty_caption));
    }
    if (answer.message) this.trigger("remove_photo");
  }

  #renderCaption(answer) {
    this.photo.src = answer.photo;
    this.photo.alt = answer.opening ? texts.example_alt : texts.photo;
    const choose = (index, word) => this.#continueCaption(index, word);
    this.words.replaceChildren(
      ...answer.words.map((word, index) => createWord(word, index, answer.prefix_length || 0, choose)),
    );
    this.words.setAttribute("aria-label", texts.words);
    this.roving();
    this.#renderLanguage(answer.language);
    this.#renderDoubts(answer);
    this.find(".beams").hidden = answer.beams.length < 2;
    const chooseBeam = ({ caption }) => this.trigger("show_caption", { caption });
    this.find(".beams ol").replaceChildren(...answer.beams.map((beam) => createBeam(beam, answer.caption, chooseBeam)));
    this.find(".remove-photo").hidden = Boolean(answer.opening);
  }

  // For screen readers, and in words if it is not the language of the page.
  #renderLanguage(spoken) {
    for (const name of [".said", ".words", ".beams ol"]) this.find(name).lang = spoken ?? "en";
    const note = this.find(".caption-language");
    note.lang = language;
    note.hidden = !spoken || spoken === language;
    note.textContent = note.hidden ? "" : fill(texts.captions_in, { language: texts.language_names[spoken] ?? spoken });
  }

  // Say where the model is not sure, and where a word was not its first choice.
  #renderDoubts({ confidence, words }) {
    const doubt = this.find(".doubt");
    doubt.hidden = !(confidence < LOW_CONFIDENCE); // also if there is none
    if (!doubt.hidden) doubt.textContent = fill(texts.low_confidence, { percent: formatPercent(confidence) });
    const word = words.find(({ text, alternatives: [first] }) => first?.word === "<end>" && text !== "<end>");
    const forced = this.find(".forced");
    forced.hidden = !word;
    if (word) forced.textContent = fill(texts.forced, { word: word.text, end: formatPercent(word.alternatives[0].probability) });
  }

  #addWordEvents() {
    for (const type of ["pointerover", "focusin"]) {
      this.words.addEventListener(type, (event) => {
        if (wordIndex(event) === null) return;
        this.stop();
        this.showWord(wordIndex(event));
      });
    }
    for (const type of ["pointerleave", "focusout"]) {
      this.words.addEventListener(type, () => this.#timer === null && this.showWord(this.pinned));
    }
    this.words.addEventListener("click", (event) => wordIndex(event) !== null && this.togglePin(wordIndex(event)));
    this.words.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      const item = event.target.closest(".words > li");
      if (step === undefined || !item) return;
      event.preventDefault();
      const column = [...item.querySelectorAll(".word, .alternative:enabled")].filter((button) => button.offsetParent);
      column[column.indexOf(event.target) + step]?.focus();
    });
  }

  #addPhotoEvents() {
    this.frame.addEventListener("pointermove", (event) => {
      const painting = this.frame.classList.contains("painting"); // see occlusion.js
      if (painting || this.#timer !== null || !this.answer.words.length) return;
      this.highlightWords(this.#regionAt(event));
    });
    const isMouse = ({ pointerType }) => pointerType !== "touch";
    this.frame.addEventListener("pointerdown", (event) => {
      if (isMouse(event) || this.frame.classList.contains("painting") || !this.answer.words.length) return;
      this.stop();
      const region = this.#regionAt(event);
      this.highlightWords(region === this.#hoveredRegion ? null : region); // a second tap turns it off
    });
    this.frame.addEventListener("pointerleave", (event) => isMouse(event) && this.highlightWords(null));
    new ResizeObserver(() => this.drawMap()).observe(this.photo);
  }

  #addToolbarEvents() {
    this.find(".play").addEventListener("click", () => (this.#timer === null ? this.play(false) : this.stop()));
    this.find(".regions").addEventListener("click", (event) => {
      this.#mapOptions.regions = !this.#mapOptions.regions;
      event.currentTarget.setAttribute("aria-pressed", String(this.#mapOptions.regions));
      this.drawMap();
    });
    for (const name of ["blur", "strength"]) {
      this.find(`.${name}`).addEventListener("input", (event) => {
        this.#mapOptions[name] = Number(event.target.value);
        this.drawMap();
      });
    }
    this.find(".remove-photo").addEventListener("click", () => this.trigger("remove_photo"));
  }
}

// The index of the word with the sharpest map, or null if there is no word.
function sharpestWord(words) {
  const peaks = words.map(({ map }) => sharpness(map));
  return peaks.length ? peaks.indexOf(Math.max(...peaks)) : null;
}

// The index of the word whose button an event happened in, or null.
export function wordIndex(event) {
  const button = event.target.closest(".word");
  return button ? Number(button.dataset.index) : null;
}
