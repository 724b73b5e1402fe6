// The lecture as a tour: one diagram of the model, a part of it lit at a time, with the numbers of the visitor's photo.

import { createElement, fillTexts } from "./dom.js";
import { fill, texts } from "./i18n.js";
import { present } from "./present.js";
import { addRoving } from "./roving.js";
import { Diagram } from "./tour_diagram.js";
import { NETWORK_STEPS } from "./tour_network.js";
import { WORD_STEPS } from "./tour_words.js";

// Show `props.value`, a trace as demo/how_it_works_tab.py makes it, in `element`, which contains how_it_works.html.
// `server.tokenize(text)` is a promise of [word, id] pairs. Returns the tour.
export function mountHowItWorks({ element, props, server, watch }) {
  fillTexts(element);
  const tour = new Tour(element, server);
  watch("value", () => tour.render(props.value));
  tour.render(props.value);
  return tour;
}

// A step is an object: `name` of its texts (how_<name>, how_<name>_text), `lit` parts of the diagram, `values(tour)` for
// its text, `figure(tour)`, the nodes below the text; perhaps `applies(trace)`, whether the captioner has this step.
// Dispatches "change" when another step or word is shown.
class Tour extends EventTarget {
  trace = {};
  step = 0; // index of the step that is shown
  word = 0; // index of the word about which the steps speak
  head = 0; // index of the attention head
  region = null; // the lit region; null: the one with the largest weight

  constructor(element, server) {
    super();
    Object.assign(this, { element, server });
    this.diagram = new Diagram(this.find(".diagram"));
    this.steps = [];
    this.find(".back").addEventListener("click", () => this.go(this.step - 1));
    this.find(".next").addEventListener("click", () => this.go(this.step + 1));
    this.find(".present").addEventListener("click", (event) => present(this.find(".tour"), event.currentTarget));
    this.chooseRoving = addRoving(this.find(".word-choice"), "button");
    this.mapsRoving = addRoving(this.find(".figure"), ".feature-map");
    document.addEventListener("keydown", (event) => this.#onKey(event));
    for (const type of ["pointerover", "focusin", "click"]) {
      this.find(".panel").addEventListener(type, (event) => {
        const region = event.target.closest("[data-region]")?.dataset.region;
        if (region !== undefined && Number(region) !== this.region) this.lightRegion(Number(region));
      });
    }
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  // What the model computed for the chosen word.
  get current() {
    return this.trace.steps[this.word];
  }

  // The weights of the lit head, or of all heads' mean: what the first tab draws.
  get weights() {
    return this.current.heads[this.head];
  }

  get meanWeights() {
    const { heads } = this.current;
    return heads[0].map((_, region) => heads.reduce((sum, map) => sum + map[region], 0) / heads.length);
  }

  get side() {
    return Math.round(Math.sqrt(this.trace.regions));
  }

  render(value) {
    this.trace = JSON.parse(JSON.stringify(value || {})); // a copy, because Gradio tracks changes of its own
    this.find(".loading").hidden = Boolean(this.trace.steps);
    this.find(".tour").hidden = !this.trace.steps;
    if (!this.trace.steps) return;
    this.steps = [...NETWORK_STEPS, ...WORD_STEPS].filter(({ applies }) => applies?.(this.trace) ?? true);
    this.step = Math.min(this.step, this.steps.length - 1);
    this.word = Math.min(Math.max(this.word, 1), this.trace.steps.length - 1);
    this.find(".word-choice").replaceChildren(...this.trace.steps.map(({ output }, i) => this.#createChoice(output, i)));
    this.show();
    // So that arrow keys lead through the tour at once.
    if (document.activeElement?.matches("[role=tab]")) this.find(".next").focus({ preventScroll: true });
  }

  // Show another step, if there is one.
  go(step) {
    if (step < 0 || step >= this.steps.length) return;
    this.step = step;
    this.show();
    this.dispatchEvent(new Event("change"));
  }

  chooseWord(word) {
    this.word = word;
    this.region = null;
    this.show();
    this.dispatchEvent(new Event("change"));
  }

  chooseHead(head) {
    this.head = head;
    this.region = null;
    this.show();
  }

  show() {
    const step = this.steps[this.step];
    this.head = Math.min(this.head, this.current.heads.length - 1);
    const focused = this.find(".figure :focus")?.dataset.focus;
    const title = texts[`how_${step.name}`];
    this.find(".title").textContent = title;
    const values = step.values?.(this) ?? {};
    this.find(".text").textContent = fill(texts[values.text ?? `how_${step.name}_text`], values);
    this.find(".figure").replaceChildren(...step.figure(this));
    this.find(".progress").textContent = fill(texts.tour_progress, { step: this.step + 1, steps: this.steps.length });
    this.find(".panel").dataset.step = step.name;
    this.find(".back").disabled = this.step === 0;
    this.find(".next").disabled = this.step === this.steps.length - 1;
    [...this.find(".word-choice").children].forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === this.word));
    });
    this.chooseRoving(this.word);
    this.mapsRoving();
    this.diagram.render(this, step.lit, title);
    this.onRegion = step.onRegion;
    this.lightRegion(this.region ?? largest(this.weights));
    if (focused) this.find(`[data-focus="${focused}"]`)?.focus();
  }

  // Light everything that shows this region: its row of a table, its place in each picture.
  lightRegion(region) {
    this.region = region;
    this.onRegion?.(this, region);
    for (const node of this.element.querySelectorAll(".panel [data-region]")) {
      node.classList.toggle("lit", Number(node.dataset.region) === region);
    }
  }

  // Show a feature map or another picture large.
  enlarge(source, description) {
    const dialog = this.find(".large");
    Object.assign(dialog.querySelector("img"), { src: source, alt: description });
    dialog.querySelector("figcaption").textContent = description;
    dialog.showModal();
  }

  async tokenize(text) {
    return this.server.tokenize(text);
  }

  #createChoice(text, index) {
    const button = createElement("button", "", text);
    button.addEventListener("click", () => this.chooseWord(index));
    return button;
  }

  #onKey(event) {
    const direction = { ArrowLeft: -1, ArrowRight: 1, PageUp: -1, PageDown: 1 }[event.key];
    const visible = this.find(".tour").offsetParent || document.fullscreenElement?.contains(this.find(".tour"));
    if (!direction || !visible || this.find(".large").open || event.defaultPrevented) return;
    const { target } = event;
    const elsewhere = target !== document.body && !this.find(".tour").contains(target);
    if (elsewhere || target.matches("input, textarea, select") || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.go(this.step + direction);
  }
}

const largest = (values) => values.indexOf(Math.max(...values));
