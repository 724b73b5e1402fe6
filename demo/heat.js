// Drawing a word's map: numbers in, pixels out. A map is a list of side * side shares, row by row, that sum to 1.

const DETAIL = 64; // cells a side of the smooth map, which the canvas then scales to the picture
// From "not looked at", which darkens the photo, to "looked at", which shines: [value, red, green, blue, alpha].
const COLOURS = [
  [0, 10, 12, 34, 0.6],
  [0.35, 70, 24, 96, 0.48],
  [0.65, 235, 90, 40, 0.42],
  [1, 255, 228, 90, 0.48],
];

function colourOf(value) {
  const above = Math.max(1, COLOURS.findIndex(([stop]) => stop >= value));
  const [from, to] = [COLOURS[above - 1], COLOURS[above]];
  const share = (value - from[0]) / (to[0] - from[0]);
  return from.slice(1).map((channel, i) => channel + share * (to[i + 1] - channel));
}

// A quarter of the whole in 16 of 64 regions is a glance at everything: a map with no peak above four times its mean
// stays dim, so that "a" does not look as sure of itself as "dog".
function brightest(map) {
  return Math.max(...map, 4 / map.length);
}

// Each point's value is the mean of all regions, weighted by a Gaussian of their distance, `blur` regions wide
// (Nadaraya and Watson): as the blur goes to 0 this is the grid itself.
function smooth(map, blur) {
  const side = Math.round(Math.sqrt(map.length));
  const weights = [];
  for (let cell = 0; cell < DETAIL; cell++) {
    const place = ((cell + 0.5) * side) / DETAIL - 0.5;
    const row = Array.from({ length: side }, (_, region) => Math.exp(-((place - region) ** 2) / (2 * blur * blur)));
    const sum = row.reduce((a, b) => a + b);
    weights.push(row.map((weight) => weight / sum));
  }
  const rows = weights.map((weight) =>
    Array.from({ length: side }, (_, column) =>
      weight.reduce((sum, share, row) => sum + share * map[row * side + column], 0)));
  return rows.map((row) => weights.map((weight) => weight.reduce((sum, share, column) => sum + share * row[column], 0)));
}

const small = document.createElement("canvas");
small.width = small.height = DETAIL;

function drawSmooth(canvas, map, { blur, strength }) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pixels = new ImageData(DETAIL, DETAIL);
  const values = smooth(map, blur).flat();
  const scale = Math.max(...values, (0.6 * 4) / map.length); // smoothing lowers peaks
  values.forEach((value, i) => {
    const [red, green, blue, alpha] = colourOf(Math.min(1, value / scale));
    pixels.data.set([red, green, blue, 255 * Math.min(1, alpha * strength)], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function drawRegions(canvas, map, { strength }) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const side = Math.round(Math.sqrt(map.length));
  const [width, height] = [canvas.width / side, canvas.height / side];
  context.font = `600 ${Math.min(width, height) * 0.34}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  map.forEach((share, region) => {
    const [x, y] = [(region % side) * width, Math.floor(region / side) * height];
    const [red, green, blue, alpha] = colourOf(share / brightest(map));
    context.fillStyle = `rgba(${red}, ${green}, ${blue}, ${Math.min(1, alpha * strength)})`;
    context.fillRect(x, y, width, height);
    context.strokeStyle = "rgba(255, 255, 255, 0.35)";
    context.strokeRect(x, y, width, height);
    const percent = 100 * share;
    context.lineWidth = Math.max(2, height / 14);
    context.strokeStyle = "rgba(0, 0, 0, 0.6)";
    context.fillStyle = "white";
    const digits = percent < 9.95 ? 1 : 0;
    const number = percent.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
    context.strokeText(number, x + width / 2, y + height / 2);
    context.fillText(number, x + width / 2, y + height / 2);
    context.lineWidth = 1;
  });
}

// A frame around one region.
function drawPlace(canvas, region, side) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [width, height] = [canvas.width / side, canvas.height / side];
  context.lineWidth = Math.max(2, height / 20);
  context.strokeStyle = "#ffd84d";
  context.strokeRect((region % side) * width, Math.floor(region / side) * height, width, height);
}

function clear(canvas) {
  canvas.getContext("2d", { willReadFrequently: true }).clearRect(0, 0, canvas.width, canvas.height);
}
