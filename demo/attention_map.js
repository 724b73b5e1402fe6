// Draws attention maps on a canvas. A map is an array of side * side weights in row-major order that sum to 1.

import { formatNumber } from "./i18n.js";

const RESOLUTION = 64; // pixels per side of the smooth map, which the canvas scales to the photo
// Low attention darkens the photo, high attention brightens it: [value, red, green, blue, alpha].
const COLOR_MAP = [
  [0, 10, 12, 34, 0.6],
  [0.35, 70, 24, 96, 0.48],
  [0.65, 235, 90, 40, 0.42],
  [1, 255, 228, 90, 0.48],
];

function colorAt(value) {
  const above = Math.max(1, COLOR_MAP.findIndex(([stop]) => stop >= value));
  const [from, to] = [COLOR_MAP[above - 1], COLOR_MAP[above]];
  const fraction = (value - from[0]) / (to[0] - from[0]);
  return from.slice(1).map((channel, i) => channel + fraction * (to[i + 1] - channel));
}

// The weight that is drawn at full brightness. Maps without a peak above four times their mean stay dim: the attention of
// "a" is spread over the whole photo, and scaling it to its own maximum would make it look as focused as that of "dog".
export function maxWeight(map) {
  return Math.max(...map, 4 / map.length);
}

// How high the map's peak is. The photo's corners do not count: words that need no photo, such as "on", rest there.
export function sharpness(map) {
  const side = Math.round(Math.sqrt(map.length));
  const corners = [0, side - 1, map.length - side, map.length - 1];
  return Math.max(...map.filter((_, region) => !corners.includes(region)));
}

// Each pixel is the mean of all regions, weighted by a Gaussian of their distance with a standard deviation of `blur`
// regions (Nadaraya-Watson kernel regression). As `blur` approaches 0 it becomes the grid itself.
function smooth(map, blur) {
  const side = Math.round(Math.sqrt(map.length));
  const weights = [];
  for (let pixel = 0; pixel < RESOLUTION; pixel++) {
    const position = ((pixel + 0.5) * side) / RESOLUTION - 0.5;
    const row = Array.from({ length: side }, (_, region) => Math.exp(-((position - region) ** 2) / (2 * blur * blur)));
    const sum = row.reduce((a, b) => a + b);
    weights.push(row.map((weight) => weight / sum));
  }
  const rows = weights.map((weight) =>
    Array.from({ length: side }, (_, column) =>
      weight.reduce((sum, value, row) => sum + value * map[row * side + column], 0)));
  return rows.map((row) => weights.map((weight) => weight.reduce((sum, value, column) => sum + value * row[column], 0)));
}

const smoothCanvas = document.createElement("canvas");
smoothCanvas.width = smoothCanvas.height = RESOLUTION;

export function drawSmoothMap(canvas, map, { blur, strength }) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pixels = new ImageData(RESOLUTION, RESOLUTION);
  const values = smooth(map, blur).flat();
  const scale = Math.max(...values, (0.6 * 4) / map.length); // smoothing lowers the peaks
  values.forEach((value, i) => {
    const [red, green, blue, alpha] = colorAt(Math.min(1, value / scale));
    pixels.data.set([red, green, blue, 255 * Math.min(1, alpha * strength)], 4 * i);
  });
  smoothCanvas.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(smoothCanvas, 0, 0, canvas.width, canvas.height);
}

export function drawRegionMap(canvas, map, { strength }) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const side = Math.round(Math.sqrt(map.length));
  const [width, height] = [canvas.width / side, canvas.height / side];
  context.font = `600 ${Math.min(width, height) * 0.34}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  map.forEach((weight, region) => {
    const [x, y] = [(region % side) * width, Math.floor(region / side) * height];
    const [red, green, blue, alpha] = colorAt(weight / maxWeight(map));
    context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${Math.min(1, alpha * strength)})`;
    context.fillRect(x, y, width, height);
    context.strokeStyle = "rgba(255, 255, 255, 0.35)";
    context.strokeRect(x, y, width, height);
    const percent = 100 * weight;
    context.lineWidth = Math.max(2, height / 14);
    context.strokeStyle = "rgba(0, 0, 0, 0.6)";
    context.fillStyle = "white";
    const label = formatNumber(percent, percent < 9.95 ? 1 : 0);
    context.strokeText(label, x + width / 2, y + height / 2);
    context.fillText(label, x + width / 2, y + height / 2);
    context.lineWidth = 1;
  });
}

export function outlineRegion(canvas, region, side) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [width, height] = [canvas.width / side, canvas.height / side];
  context.lineWidth = Math.max(2, height / 20);
  context.strokeStyle = "#ffd84d";
  context.strokeRect((region % side) * width, Math.floor(region / side) * height, width, height);
}

export function clearCanvas(canvas) {
  canvas.getContext("2d", { willReadFrequently: true }).clearRect(0, 0, canvas.width, canvas.height);
}
