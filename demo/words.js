// The words as buttons, what else could have been said in their places, and the beams.

// Where a map's largest share lies, in words, for those who do not see it.
function placeOf(map) {
  const side = Math.round(Math.sqrt(map.length));
  const peak = map.indexOf(Math.max(...map));
  const third = (position) => Math.min(2, Math.floor((3 * (position + 0.5)) / side));
  return fill(texts.place, { row: texts.rows[third(Math.floor(peak / side))], column: texts.columns[third(peak % side)] });
}

function labelOf(word) {
  return fill(texts.word, { word: word.text, percent: percent(word.probability), place: placeOf(word.map) });
}

function makeWord(word, number, begun) {
  const item = make("li", number < begun ? "begun" : "");
  const button = make("button", "word");
  button.dataset.number = number;
  button.style.setProperty("--letters", word.text.length);
  button.setAttribute("aria-pressed", "false");
  button.append(make("span", "", word.text), make("small", "", percent(word.probability)));
  button.setAttribute("aria-label", labelOf(word));
  const others = make("ul", "alternatives");
  others.setAttribute("aria-label", fill(texts.alternatives, { word: word.text }));
  others.append(...word.alternatives.map((other) => makeAlternative(other.word, other.probability, number, word.text)));
  item.append(button, others);
  return item;
}

// "<end>" and its like are shown, but there is nothing to go on with from them.
function makeAlternative(text, probability, number, said) {
  const item = make("li", "");
  const button = make("button", "alternative");
  button.append(make("span", "", text), make("small", "", percent(probability)));
  button.style.setProperty("--probability", probability);
  button.disabled = text.startsWith("<");
  button.classList.toggle("same", text === said);
  button.setAttribute("aria-label", fill(texts.alternative, { word: text, percent: percent(probability) }));
  button.addEventListener("click", () => goOn(number, text));
  item.append(button);
  return item;
}

function makeBeam({ caption, log_probability: logProbability }) {
  const item = make("li", "", caption);
  item.append(make("small", "", logProbability.toLocaleString(language, { maximumFractionDigits: 2 })));
  return item;
}
