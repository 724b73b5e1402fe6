// Creates the elements of the caption: a button for each word with its alternatives, and the list of beams.

import { createElement } from "./dom.js";
import { fill, formatNumber, formatPercent, texts } from "./i18n.js";

// Describe the position of the map's peak for screen readers.
function describePeak(map) {
  const side = Math.round(Math.sqrt(map.length));
  const peak = map.indexOf(Math.max(...map));
  const third = (index) => Math.min(2, Math.floor((3 * (index + 0.5)) / side));
  return fill(texts.position, { row: texts.rows[third(Math.floor(peak / side))], column: texts.columns[third(peak % side)] });
}

export function wordLabel(word) {
  return fill(texts.word, { word: word.text, percent: formatPercent(word.probability), position: describePeak(word.map) });
}

// `choose(index, text)` is called when an alternative is chosen.
export function createWord(word, index, prefixLength, choose) {
  const item = createElement("li", index < prefixLength ? "prefix" : "");
  const button = createElement("button", "word");
  button.dataset.index = index;
  button.style.setProperty("--letters", word.text.length);
  button.setAttribute("aria-pressed", "false");
  button.append(createElement("span", "", word.text), createElement("small", "", formatPercent(word.probability)));
  button.setAttribute("aria-label", wordLabel(word));
  const alternatives = createElement("ul", "alternatives");
  alternatives.setAttribute("aria-label", fill(texts.alternatives, { word: word.text }));
  alternatives.append(
    ...word.alternatives.map((other) =>
      createAlternative(other.word, other.probability, word.text, () => choose(index, other.word))),
  );
  item.append(button, alternatives);
  return item;
}

// Special tokens such as "<end>" are shown, but a caption cannot continue from them.
function createAlternative(text, probability, chosen, choose) {
  const item = createElement("li", "");
  const button = createElement("button", "alternative");
  button.tabIndex = -1; // the words share one Tab stop; ArrowDown leads from a word to its alternatives
  button.title = text; // a long one may be cut off
  button.append(createElement("span", "", text), createElement("small", "", formatPercent(probability)));
  button.style.setProperty("--probability", probability);
  button.disabled = text.startsWith("<");
  button.classList.toggle("chosen", text === chosen);
  button.setAttribute("aria-label", fill(texts.alternative, { word: text, percent: formatPercent(probability) }));
  button.addEventListener("click", choose);
  item.append(button);
  return item;
}

// A beam with what the beams are sorted by, the average per word (with <end>), and the sum. `choose(beam)` is called when
// it is chosen.
export function createBeam(beam, shown, choose) {
  const item = createElement("li", "");
  const button = createElement("button", "beam");
  const total = beam.log_probability;
  const values = { average: formatNumber(total / (beam.caption.split(" ").length + 1), 2), sum: formatNumber(total, 2) };
  button.append(createElement("span", "", beam.caption), createElement("small", "", fill(texts.beam_scores, values)));
  button.setAttribute("aria-pressed", String(beam.caption === shown));
  button.addEventListener("click", () => beam.caption !== shown && choose(beam));
  item.append(button);
  return item;
}
