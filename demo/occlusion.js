// Occlusion: cover parts of the photo, caption it again, and see which words become less likely.

const maskCanvas = find(".mask");
const side = props.mask_side;
const BRUSH_RADIUS = side / 18; // cells
let cells = new Uint8Array(side * side); // 1 where the photo is covered
let isBrushActive = false;
let requestId = 0; // results of earlier requests are ignored

function drawMask() {
  resizeCanvas(maskCanvas);
  clearCanvas(maskCanvas);
  const pixels = new ImageData(side, side);
  cells.forEach((cell, i) => pixels.data.set([128, 128, 128, 255 * cell], 4 * i));
  const grid = new OffscreenCanvas(side, side);
  grid.getContext("2d").putImageData(pixels, 0, 0);
  maskCanvas.getContext("2d").drawImage(grid, 0, 0, maskCanvas.width, maskCanvas.height);
}

function paint(event) {
  const box = photo.getBoundingClientRect();
  const [x, y] = [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
  cells.forEach((_, i) => {
    if (Math.hypot((i % side) + 0.5 - x, Math.floor(i / side) + 0.5 - y) <= BRUSH_RADIUS) cells[i] = 1;
  });
  drawMask();
}

// Cover the fewest regions that hold half of the word's attention, but at most a quarter of the photo.
function coverWord(map) {
  const regions = Math.round(Math.sqrt(map.length));
  const order = [...map.keys()].sort((a, b) => map[b] - map[a]);
  const covered = new Set();
  let sum = 0;
  for (const region of order.slice(0, map.length / 4)) {
    if (sum >= 0.5) break;
    covered.add(region);
    sum += map[region];
  }
  cells.forEach((_, i) => {
    const [row, column] = [Math.floor(i / side), i % side].map((cell) => Math.floor((cell * regions) / side));
    if (covered.has(row * regions + column)) cells[i] = 1;
  });
  drawMask();
  requestCaption();
}

function requestCaption() {
  stop();
  find(".uncover").hidden = false;
  requestId += 1;
  const caption = answer.words.map(({ text }) => text).join(" ");
  trigger("caption_masked", { request_id: requestId, mask: cells.join(""), caption });
}

function uncover() {
  cells = new Uint8Array(side * side);
  drawMask();
  find(".occluded").hidden = find(".uncover").hidden = true;
  wordButtons().forEach((button, i) => {
    button.querySelector("small").textContent = formatPercent(answer.words[i].probability);
    button.setAttribute("aria-label", wordLabel(answer.words[i]));
    button.style.removeProperty("--drop");
  });
}

// Show each word's probability before and after covering.
function renderOcclusion() {
  const { occlusion } = props;
  if (!occlusion || occlusion.request_id !== requestId || !cells.some(Boolean)) return;
  find(".occluded").hidden = false;
  find(".occluded-caption").textContent = occlusion.caption;
  find(".announcement").textContent = `${texts.occluded_caption} ${occlusion.caption}`;
  wordButtons().forEach((button, i) => {
    const [before, after] = [answer.words[i].probability, occlusion.probabilities[i]];
    const values = { word: answer.words[i].text, before: formatPercent(before), after: formatPercent(after) };
    button.querySelector("small").textContent = `${values.before} → ${values.after}`;
    button.style.setProperty("--drop", Math.max(0, 1 - after / before));
    button.setAttribute("aria-label", fill(texts.word_occluded, values));
  });
}

function setBrush(active) {
  isBrushActive = active;
  frame.classList.toggle("painting", active);
  find(".brush").setAttribute("aria-pressed", String(active));
  if (active) highlightWords(null);
}

find(".brush").addEventListener("click", () => setBrush(!isBrushActive));
find(".cover-word").addEventListener("click", () => coverWord(answer.words[lastShown].map));
find(".uncover").addEventListener("click", uncover);
frame.addEventListener("pointerdown", (event) => {
  if (!isBrushActive) return;
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  paint(event);
});
frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && paint(event));
frame.addEventListener("pointerup", (event) => frame.hasPointerCapture(event.pointerId) && requestCaption());

new ResizeObserver(() => {
  drawMap();
  drawMask();
}).observe(photo);
watch("occlusion", renderOcclusion);
watch("value", render);
render();
