// Pictures and tables that several steps of the tour use.

import { drawSmoothMap } from "./attention_map.js";
import { createElement } from "./dom.js";
import { fill, formatNumber, texts } from "./i18n.js";

// Numbers as a strip of colors: orange is positive, blue is negative. `label` describes it to screen readers.
export function createStrip(values, label) {
  const canvas = createElement("canvas", "strip");
  canvas.width = values.length;
  canvas.height = 1;
  const largest = Math.max(...values.map(Math.abs), 1e-6);
  const pixels = new ImageData(values.length, 1);
  values.forEach((value, i) => {
    const color = value < 0 ? [37, 99, 235] : [234, 88, 12];
    pixels.data.set([...color, 255 * Math.abs(value / largest)], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  if (label) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }
  return canvas;
}

// A strip with its name before it.
export function createNamedStrip(name, values) {
  const row = createElement("div", "named-strip");
  row.append(createElement("span", "", name), createStrip(values, name));
  return row;
}

// The photo as the network sees it, with a map over it and cells that light with what else shows their region.
export function createRegionPicture({ trace, side }, weights) {
  const picture = createElement("div", "region-picture");
  const image = createElement("img", "");
  image.src = trace.pixels.photo;
  image.alt = texts.photo;
  picture.append(image);
  if (weights) picture.append(createMapCanvas(weights, 256));
  const cells = createElement("div", "cells");
  cells.style.setProperty("--side", side);
  cells.append(...Array.from({ length: side * side }, (_, region) => {
    const cell = createElement("i", "");
    cell.dataset.region = region;
    return cell;
  }));
  picture.append(cells);
  return picture;
}

export function createMapCanvas(weights, pixels) {
  const canvas = createElement("canvas", "map");
  canvas.width = canvas.height = pixels;
  drawSmoothMap(canvas, weights, { blur: 0.3, strength: 1.2 });
  return canvas;
}

// The photo with a map, small, and a name below it.
export function createMapThumbnail({ trace }, weights, name) {
  const figure = createElement("figure", "map-thumbnail");
  const image = createElement("img", "");
  image.src = trace.pixels.photo;
  image.alt = "";
  const box = createElement("div", "thumbnail");
  box.append(image, createMapCanvas(weights, 112));
  figure.append(box, createElement("figcaption", "", name));
  return figure;
}

export function createTable(columns, rows, total) {
  const table = createElement("table", "");
  const section = (tag, lines) => {
    const node = createElement(tag, "");
    node.append(...lines);
    return node;
  };
  table.append(section("thead", [createRow("th", columns)]), section("tbody", rows), section("tfoot", [total]));
  return table;
}

export function createRow(tag, cells) {
  const row = createElement("tr", "");
  row.append(...cells.map((cell) => createElement(tag, "", cell)));
  return row;
}

// "row 3, column 4", as people count
export function placeOf(region, side) {
  return `${Math.floor(region / side) + 1}, ${(region % side) + 1}`;
}

export const round = (value, digits = 3) => formatNumber(value, digits);

export const sum = (values) => values.reduce((a, b) => a + b, 0);

// A line of arithmetic with its numbers put in.
export function createFormula(text, values) {
  return createElement("p", "formula", fill(text, values));
}
