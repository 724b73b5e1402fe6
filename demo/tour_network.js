// The tour's first steps: from the photo to its regions, what was trained, and words as numbers.

import { createElement } from "./dom.js";
import { fill, formatNumber, texts } from "./i18n.js";
import { createTransferLearning } from "./transfer_learning.js";
import { encoderName } from "./tour_diagram.js";
import { createNamedStrip, createRegionPicture, placeOf } from "./tour_figures.js";

export const NETWORK_STEPS = [
  {
    name: "pixels",
    lit: ["photo"],
    values: ({ trace: { pixels } }) => {
      const [width, height] = pixels.original_size;
      return { width, height, size: pixels.size };
    },
    figure: ({ trace: { pixels } }) => [createPixels(pixels)],
  },
  {
    name: "stages",
    applies: ({ stages }) => stages.length > 0,
    lit: ["photo", "encoder"],
    values: ({ trace }) => ({ encoder: encoderName(trace) }),
    figure: (tour) => [createStages(tour)],
  },
  {
    name: "regions",
    lit: ["encoder", "regions"],
    values: ({ trace }) => {
      const channels = trace.stages.at(-1)?.shape[2] ?? trace.hidden_size;
      return { encoder: encoderName(trace), regions: trace.regions, channels, hidden: trace.hidden_size };
    },
    figure: (tour) => [createRegionPicture(tour), createElement("div", "chosen-region")],
    onRegion: (tour, region) => {
      const name = fill(texts.tour_region, { place: placeOf(region, tour.side) });
      const strip = createNamedStrip(name, tour.trace.region_values[region]);
      tour.find(".chosen-region").replaceChildren(strip, createElement("p", "muted", texts.tour_strip));
    },
  },
  {
    name: "transfer",
    applies: ({ transfer }) => Boolean(transfer),
    lit: ["encoder", "first", "attention", "second"],
    values: () => ({}),
    figure: ({ trace }) => createTransferLearning(trace.transfer, trace.stages.at(-1)?.shape[2]),
  },
  {
    name: "vocabulary",
    lit: ["words"],
    values: ({ trace }) => ({ size: trace.vocabulary.size, special: trace.vocabulary.special }),
    figure: (tour) => createVocabulary(tour),
  },
];

function createPixels({ photo, channels, patch }) {
  const row = createElement("div", "row");
  const image = createElement("img", "resized");
  Object.assign(image, { src: photo, alt: texts.photo });
  const colors = createElement("div", "channels");
  colors.append(
    ...channels.map((source, i) => {
      const figure = createElement("figure", "");
      const channel = createElement("img", "");
      Object.assign(channel, { src: source, alt: "" });
      figure.append(channel, createElement("figcaption", "", texts.how_colors[i]));
      return figure;
    }),
  );
  const numbers = createElement("div", "patch");
  numbers.setAttribute("aria-hidden", "true"); // 108 numbers are to be seen, not to be listened to
  numbers.append(
    ...patch.flat().map((pixel) => {
      const cell = createElement("span", "");
      cell.append(...pixel.map((value) => createElement("b", "", value)));
      cell.style.background = `rgb(${pixel})`;
      cell.style.color = isLight(pixel) ? "black" : "white";
      return cell;
    }),
  );
  row.append(image, colors, numbers);
  return row;
}

// Whether black text has more contrast than white text, by the relative luminance of WCAG 2.
function isLight(pixel) {
  const [red, green, blue] = pixel.map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18;
}

// For each stage its shape and the maps that differ most between places; a click shows a map large.
function createStages(tour) {
  const { stages } = tour.trace;
  const list = createElement("ol", "stages");
  list.append(
    ...stages.map(({ shape, channels }) => {
      const item = createElement("li", "");
      const dimensions = shape.map((size) => formatNumber(size)).join(" × ");
      item.append(createElement("strong", "", dimensions), createSizeBox(shape, stages.at(-1).shape[2], stages[0].shape[0]));
      item.append(...channels.map(({ index, image }) => createFeatureMap(tour, image, fill(texts.how_channel, {
        index: String(index),
        shape: dimensions,
      }))));
      return item;
    }),
  );
  return list;
}

function createFeatureMap(tour, source, description) {
  const button = createElement("button", "feature-map");
  const image = createElement("img", "");
  Object.assign(image, { src: source, alt: "" });
  button.append(image);
  button.title = description;
  button.setAttribute("aria-label", description);
  button.addEventListener("click", () => tour.enlarge(source, description));
  return button;
}

// Height: rows. Width: square root of the channels, because the first stage would otherwise be too thin to see.
function createSizeBox([rows, , channels], maxChannels, maxRows) {
  const size = createElement("span", "size");
  const box = createElement("i", "");
  box.style.height = `${(100 * rows) / maxRows}%`;
  box.style.width = `${100 * Math.sqrt(channels / maxChannels)}%`;
  size.append(box);
  return size;
}

function createVocabulary(tour) {
  const { vocabulary } = tour.trace;
  const list = createElement("ol", "vocabulary");
  list.append(...vocabulary.words.map((token) => createToken(token, vocabulary.unknown)));
  const label = createElement("label", "");
  const input = createElement("input", "tokenizer-input");
  Object.assign(input, { type: "text", maxLength: 200, value: texts.how_tokenizer_example });
  label.append(`${texts.how_tokenizer_input} `, input);
  const tokens = createElement("ol", "tokens");
  tokens.setAttribute("aria-live", "polite");
  const tokenize = async () => {
    const found = await tour.tokenize(input.value);
    tokens.replaceChildren(...found.map((token) => createToken(token, vocabulary.unknown)));
  };
  input.addEventListener("input", tokenize);
  tokenize();
  return [list, label, tokens];
}

function createToken([word, id], unknown) {
  const item = createElement("li", id === unknown ? "unknown" : "", word);
  item.append(createElement("small", "", id));
  return item;
}
