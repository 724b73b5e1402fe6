// A worksheet to print, "predict, then check", made from the photo at hand.

import { sharpness } from "./attention_map.js";
import { createElement } from "./dom.js";
import { fill, formatPercent, texts } from "./i18n.js";

const QUESTIONS = 3; // words for which a class guesses where the model looks

// Print a sheet for the class and, on a second page, the answers. Everything else is hidden while it is printed.
export function printWorksheet(viewer) {
  const sheet = createSheet(viewer);
  document.body.append(sheet);
  document.documentElement.classList.add("printing-worksheet");
  addEventListener(
    "afterprint",
    () => {
      sheet.remove();
      document.documentElement.classList.remove("printing-worksheet");
    },
    { once: true },
  );
  print();
  return "";
}

function createSheet(viewer) {
  const { words, caption } = viewer.answer;
  const chosen = chooseWords(words);
  const sheet = createElement("article", "worksheet-page");
  const tasks = createElement("ol", "");
  tasks.append(
    createTask(texts.worksheet_caption, createLines(2)),
    createTask(texts.worksheet_look, createTiles(chosen.map((index) => [words[index].text, drawPhoto(viewer, null, true)]))),
    createTask(texts.worksheet_cover, createLines(2)),
  );
  const answers = createElement("section", "answers");
  const checked = chosen.map((index) => {
    const { text, probability, map } = words[index];
    return [`${text} · ${formatPercent(probability)}`, drawPhoto(viewer, map, false)];
  });
  answers.append(
    createElement("h1", "", texts.worksheet_check),
    createElement("p", "", fill(texts.worksheet_said, { caption })),
    createTiles(checked),
    createElement("p", "", texts.worksheet_try),
  );
  sheet.append(createElement("h1", "", texts.worksheet_predict), drawPhoto(viewer, null, false), tasks, answers);
  return sheet;
}

// The indices of different words with sharp maps, in their order; short ones, such as "a", only if there are no others.
function chooseWords(words) {
  const different = [...words.keys()].filter((index) => words.findIndex(({ text }) => text === words[index].text) === index);
  const isShort = (index) => words[index].text.length < 3;
  different.sort((a, b) => isShort(a) - isShort(b) || sharpness(words[b].map) - sharpness(words[a].map));
  return different.slice(0, QUESTIONS).sort((a, b) => a - b);
}

function createTask(text, figure) {
  const item = createElement("li", "");
  item.append(createElement("p", "", text), figure);
  return item;
}

function createLines(count) {
  const lines = createElement("div", "lines");
  lines.append(...Array.from({ length: count }, () => createElement("i", "")));
  return lines;
}

function createTiles(tiles) {
  const row = createElement("div", "tiles");
  row.append(
    ...tiles.map(([name, canvas]) => {
      const figure = createElement("figure", "");
      figure.append(canvas, createElement("figcaption", "", name));
      return figure;
    }),
  );
  return row;
}

// The photo with a map, or with a grid to draw on, or as it is.
function drawPhoto(viewer, map, grid) {
  const { photo } = viewer;
  const scale = 640 / Math.max(photo.naturalWidth, photo.naturalHeight);
  const canvas = createElement("canvas", "");
  const sides = [photo.naturalWidth, photo.naturalHeight].map((length) => Math.max(1, Math.round(length * scale)));
  [canvas.width, canvas.height] = sides;
  const context = canvas.getContext("2d");
  context.drawImage(photo, 0, 0, ...sides);
  if (map) viewer.paintMap(canvas, map);
  if (!grid) return canvas;
  const side = Math.round(Math.sqrt(viewer.answer.words[0].map.length));
  context.strokeStyle = "rgba(255, 255, 255, 0.8)";
  for (let i = 1; i < side; i++) {
    context.strokeRect((i * canvas.width) / side, -1, 0, canvas.height + 2);
    context.strokeRect(-1, (i * canvas.height) / side, canvas.width + 2, 0);
  }
  return canvas;
}
