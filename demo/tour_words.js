// The tour's steps for one word: from the words so far to the next word, and around again.

import { createElement } from "./dom.js";
import { fill, formatNumber, formatPercent, texts } from "./i18n.js";
import { wordsSoFar } from "./tour_diagram.js";
import {
  createFormula,
  createMapThumbnail,
  createNamedStrip,
  createRegionPicture,
  createRow,
  createTable,
  placeOf,
  round,
  sum,
} from "./tour_figures.js";

const ROWS = 5; // of a table of regions, besides the lit one and the sum

export const WORD_STEPS = [
  {
    name: "rnn",
    lit: ["words", "first"],
    values: (tour) => ({
      output: tour.current.output,
      words: `“${wordsSoFar(tour)}”`,
      hidden: tour.trace.hidden_size,
    }),
    figure: (tour) => createStates(tour, "state"),
  },
  {
    name: "attention",
    lit: ["first", "regions", "attention"],
    values: ({ trace, current }) => ({
      regions: trace.regions,
      heads: current.heads.length,
      text: current.heads.length > 1 ? "how_attention_heads_text" : "how_attention_text",
    }),
    figure: (tour) => {
      const row = createElement("div", "row");
      row.append(createRegionPicture(tour, tour.weights), createElement("div", "scores"));
      return [createHeads(tour), row, createElement("p", "formula"), createElement("p", "muted", texts.tour_scores_note)];
    },
    onRegion: showScores,
  },
  {
    name: "heads",
    lit: ["attention"],
    values: ({ current }) => ({
      output: current.output,
      heads: current.heads.length,
      text: current.heads.length > 1 ? "how_heads_text" : "how_one_head_text",
    }),
    figure: (tour) => {
      const row = createElement("div", "row");
      row.append(
        ...tour.current.heads.map((map, i) => createHeadPicture(tour, map, fill(texts.how_head, { index: i + 1 }))),
        createHeadPicture(tour, tour.meanWeights, texts.tour_mean, "mean"),
      );
      return [row, createElement("p", "formula")];
    },
    onRegion: (tour, region) => {
      const weights = tour.current.heads.map((map) => map[region]);
      const values = {
        place: placeOf(region, tour.side),
        terms: weights.map((weight) => round(weight)).join(" + "),
        heads: weights.length,
        mean: round(tour.meanWeights[region]),
      };
      tour.find(".formula").textContent = fill(texts.tour_mean_formula, values);
    },
  },
  {
    name: "context",
    applies: (trace) => Boolean(trace.steps[0]?.context),
    lit: ["regions", "attention", "context"],
    values: ({ trace, current }) => ({
      regions: trace.regions,
      heads: current.heads.length,
      text: current.heads.length > 1 ? "how_context_heads_text" : "how_context_text",
    }),
    figure: createContext,
  },
  {
    name: "second",
    lit: ["first", "context", "second"],
    applies: (trace) => Boolean(trace.steps[0]?.second_state),
    values: ({ trace }) => ({ hidden: trace.hidden_size }),
    figure: (tour) => createStates(tour, "second_state"),
  },
  {
    name: "next",
    lit: ["second", "word"],
    values: ({ trace, current }) => {
      const [best] = current.candidates;
      return { size: trace.vocabulary.size, best: best.word, percent: formatPercent(best.probability), word: current.output };
    },
    figure: createCandidates,
  },
  {
    name: "end",
    lit: ["word", "words"],
    values: () => ({}),
    figure: (tour) => [createRounds(tour), createElement("p", "full-caption", createFullCaption(tour.trace))],
  },
  {
    name: "languages",
    lit: ["regions", "attention", "word"],
    applies: (trace) => trace.languages?.length > 1,
    values: ({ trace }) => ({ regions: trace.regions }),
    figure: (tour) => tour.trace.languages.map((each) => createLanguage(tour, each)),
  },
];

// The state of an RNN before and after it has read what it reads for this word.
function createStates(tour, key) {
  const { word, trace, current } = tour;
  const before = trace.steps[word - 1]?.[key];
  const nodes = before
    ? [createNamedStrip(texts[`tour_${key}_before`], before)]
    : [createElement("p", "muted", texts[`tour_${key}_first`])];
  if (key === "second_state") {
    nodes.push(createNamedStrip(texts.tour_state_after, current.state), createNamedStrip(texts.tour_context, current.context));
  } else {
    nodes.push(createElement("p", "reads", fill(texts.tour_reads, { word: current.input })));
  }
  nodes.push(createNamedStrip(texts[`tour_${key}_after`], current[key]), createElement("p", "muted", texts.tour_strip));
  return nodes;
}

function createHeads(tour) {
  const { heads } = tour.current;
  const group = createElement("div", "heads");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", texts.tour_heads);
  if (heads.length < 2) return group;
  group.append(
    ...heads.map((map, i) => {
      const button = createElement("button", "head");
      const name = fill(texts.how_head, { index: i + 1 });
      button.append(createMapThumbnail(tour, map, name));
      button.dataset.focus = `head-${i}`;
      button.setAttribute("aria-pressed", String(i === tour.head));
      button.addEventListener("click", () => tour.chooseHead(i));
      return button;
    }),
  );
  return group;
}

function createHeadPicture(tour, map, name, className = "") {
  const figure = createElement("figure", className);
  figure.append(createRegionPicture(tour, map), createElement("figcaption", "", name));
  return figure;
}

// Softmax with its numbers: a row for each of the largest weights, and for the lit region if it is none of them.
function showScores(tour, lit) {
  const { weights, side } = tour;
  const maximum = Math.max(...weights);
  const exponentials = weights.map((weight) => weight / maximum);
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, ROWS);
  const score = (region) => (exponentials[region] > 0 ? round(Math.log(exponentials[region]), 2) : "−∞");
  const rows = [...order, order.includes(lit) ? null : lit].map((region) => {
    if (region === null) return createRow("td", ["…", "", "", ""]); // so that nothing moves
    const row = createRow("td", [placeOf(region, side), score(region), round(exponentials[region]), round(weights[region])]);
    row.dataset.region = region;
    row.dataset.focus = `region-${region}`;
    row.tabIndex = 0;
    return row;
  });
  const totals = [sum(exponentials), sum(weights)];
  const all = fill(texts.how_all, { regions: weights.length });
  const focused = tour.find(".scores :focus")?.dataset.focus;
  tour.find(".scores").replaceChildren(
    createTable(texts.how_columns, rows, createRow("td", [all, "", ...totals.map((value) => round(value))])),
  );
  if (focused) tour.find(`[data-focus="${focused}"]`)?.focus();
  tour.find(".formula").textContent = fill(texts.tour_softmax_formula, {
    place: placeOf(lit, side),
    score: score(lit),
    part: round(exponentials[lit]),
    total: round(totals[0]),
    weight: round(weights[lit]),
  });
}

// The regions with the largest weights, each with its share, and what their sum over all regions became.
function createContext(tour) {
  const { meanWeights: weights, trace, current, side } = tour;
  const order = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 3);
  const terms = order.map((region) => {
    const values = { weight: round(weights[region]), place: placeOf(region, side) };
    const row = createNamedStrip(fill(texts.tour_term, values), trace.region_values[region]);
    row.dataset.region = region;
    row.tabIndex = 0;
    return row;
  });
  const rest = { regions: weights.length - order.length, weight: round(1 - sum(order.map((region) => weights[region]))) };
  const list = createElement("div", "terms");
  list.append(
    ...terms,
    createElement("p", "muted", fill(texts.tour_rest, rest)),
    createNamedStrip(texts.tour_context, current.context),
    createElement("p", "muted", texts.tour_strip),
  );
  const row = createElement("div", "row");
  row.append(createRegionPicture(tour, weights), list);
  return [row];
}

function createCandidates({ trace, current }) {
  const best = current.candidates[0].probability;
  const rows = current.candidates.map(({ word, probability }) => {
    const row = createRow("td", [word, round(Math.log(probability / best), 2), round(probability / best), ""]);
    row.lastChild.append(createBar(probability));
    row.classList.toggle("chosen", word === current.output);
    return row;
  });
  const total = createRow("td", [fill(texts.how_all_words, { size: trace.vocabulary.size }), "", round(1 / best), formatPercent(1)]);
  const chosen = current.candidates.find(({ word }) => word === current.output) ?? current.candidates[0];
  const values = { word: chosen.word, part: round(chosen.probability / best), total: round(1 / best) };
  const table = createTable(texts.tour_word_columns, rows, total);
  table.className = "candidates";
  return [
    table,
    createFormula(texts.tour_word_formula, { ...values, percent: formatPercent(chosen.probability) }),
    createElement("p", "muted", texts.tour_scores_note),
  ];
}

function createBar(probability) {
  const bar = createElement("span", "bar", formatPercent(probability));
  bar.style.setProperty("--probability", probability);
  return bar;
}

// Each word with its map, in the order in which they were said.
function createRounds(tour) {
  const row = createElement("ol", "rounds");
  row.append(
    ...tour.trace.steps.map((step, i) => {
      const item = createElement("li", "");
      const mean = step.heads[0].map((_, region) => sum(step.heads.map((map) => map[region])) / step.heads.length);
      const button = createElement("button", "");
      button.append(createMapThumbnail(tour, mean, step.output));
      button.setAttribute("aria-pressed", String(i === tour.word));
      button.dataset.focus = `round-${i}`;
      button.addEventListener("click", () => tour.chooseWord(i));
      item.append(button);
      return item;
    }),
  );
  return row;
}

function createFullCaption({ start, steps }) {
  return [start, ...steps.map(({ output }) => output)].join(" ");
}

// A caption in one language: each word's map and number.
function createLanguage(tour, { language, start, words }) {
  const part = createElement("div", "language");
  part.lang = language;
  const name = texts.language_names[language] ?? language;
  const list = createElement("ol", "rounds");
  list.append(
    ...words.map(({ text, id, map }) => {
      const item = createElement("li", "");
      item.append(createMapThumbnail(tour, map.flat(), `${text} · ${formatNumber(id)}`));
      return item;
    }),
  );
  part.append(createElement("h3", "", fill(texts.tour_language, { language: name, start })), list);
  return part;
}
