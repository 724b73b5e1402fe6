// Draws what a visitor takes along: a picture of all maps, and the frames of a film. `paint(canvas, map)` draws a word's
// map on a canvas that shows the photo.

import { createElement } from "./dom.js";
import { formatPercent } from "./i18n.js";

const FONT = "system-ui, sans-serif";
const [INK, GRAY, HIGHLIGHT] = ["#1a1a1a", "#666666", "#ffd84d"];

// The photo, or the photo with a map, scaled to a canvas of its own; opaque, because WebP stores transparency separately.
function drawTile(photo, width, height, map, paint) {
  const canvas = createElement("canvas", "");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d", { alpha: false }).drawImage(photo, 0, 0, width, height);
  if (map) paint(canvas, map);
  return canvas;
}

// Break `words` into lines of at most `width` pixels: lists of { word, index, x }.
function breakLines(context, words, width) {
  const lines = [[]];
  const space = context.measureText(" ").width;
  let x = 0;
  words.forEach((word, index) => {
    const length = context.measureText(word).width;
    if (x > 0 && x + length > width) {
      lines.push([]);
      x = 0;
    }
    lines.at(-1).push({ word, index, x });
    x += length + space;
  });
  return lines;
}

// All maps in one picture, laid out as `caption.py --attention` does: the caption, the photo, and a tile for each word.
export function drawPicture(photo, words, paint, note) {
  const [columns, tile, gap, label, lineHeight] = [6, 228, 14, 30, 30]; // pixels
  const scale = tile / Math.max(photo.naturalWidth, photo.naturalHeight / 1.5);
  const [width, height] = [photo.naturalWidth, photo.naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = createElement("canvas", "");
  const context = canvas.getContext("2d", { alpha: false });
  canvas.width = gap + columns * (tile + gap);
  context.font = `700 22px ${FONT}`;
  const lines = breakLines(context, words.map(({ text }) => text), canvas.width - 2 * gap);
  const top = gap + lines.length * lineHeight + label;
  canvas.height = top + Math.ceil((1 + words.length) / columns) * (label + height + gap);
  context.fillStyle = "white"; // setting the size has reset the context
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = INK;
  context.font = `700 22px ${FONT}`;
  lines.forEach((line, i) => context.fillText(line.map(({ word }) => word).join(" "), gap, gap + i * lineHeight + 22));
  context.fillStyle = GRAY;
  context.font = `13px ${FONT}`;
  context.fillText(note, gap, top - label + 13);
  context.fillStyle = INK;
  context.font = `15px ${FONT}`;
  context.textAlign = "center";
  [null, ...words].forEach((word, i) => {
    const x = gap + (i % columns) * (tile + gap);
    const y = top + Math.floor(i / columns) * (label + height + gap) + label;
    context.drawImage(drawTile(photo, width, height, word?.map, paint), x + Math.round((tile - width) / 2), y);
    if (word) context.fillText(`${word.text}  ${formatPercent(word.probability)}`, x + tile / 2, y - 9, tile);
  });
  return canvas;
}

// One canvas for each word: the photo with its map, and below it the caption up to this word.
export function drawFilm(photo, words, paint) {
  const [margin, lineHeight] = [16, 36]; // pixels
  const scale = 640 / Math.max(photo.naturalWidth, photo.naturalHeight);
  const [width, height] = [photo.naturalWidth, photo.naturalHeight].map((side) => Math.max(1, Math.round(side * scale)));
  return words.map((_, current) => {
    const canvas = createElement("canvas", "");
    const context = canvas.getContext("2d", { alpha: false });
    canvas.width = Math.max(width, 320);
    context.font = `600 24px ${FONT}`;
    const lines = breakLines(context, words.map(({ text }) => text), canvas.width - 2 * margin);
    canvas.height = height + 2 * margin + lines.length * lineHeight;
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(drawTile(photo, width, height, words[current].map, paint), Math.round((canvas.width - width) / 2), 0);
    context.font = `600 24px ${FONT}`;
    lines.forEach((line, i) => {
      const baseline = height + margin + i * lineHeight + 26;
      for (const { word, index, x } of line.filter((each) => each.index <= current)) {
        context.fillStyle = HIGHLIGHT;
        if (index === current) context.fillRect(margin + x - 5, baseline - 25, context.measureText(word).width + 10, 33);
        context.fillStyle = INK;
        context.fillText(word, margin + x, baseline);
      }
    });
    return canvas;
  });
}
