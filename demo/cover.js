// Cover parts of the photo and have it captioned again: was what it looked at the reason for the word?

const covers = find(".covers");
const side = props.cover_side;
const BRUSH = side / 18; // its radius, in cells
let cells = new Uint8Array(side * side); // 1 where the photo is covered
let painting = false;
let asked = 0; // questions so far: an answer to an earlier one is of no use

function drawCover() {
  fit(covers);
  clear(covers);
  const pixels = new ImageData(side, side);
  cells.forEach((cell, i) => pixels.data.set([128, 128, 128, 255 * cell], 4 * i));
  const grid = new OffscreenCanvas(side, side);
  grid.getContext("2d").putImageData(pixels, 0, 0);
  covers.getContext("2d").drawImage(grid, 0, 0, covers.width, covers.height);
}

function paint(event) {
  const box = picture.getBoundingClientRect();
  const [x, y] = [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
  cells.forEach((_, i) => {
    if (Math.hypot((i % side) + 0.5 - x, Math.floor(i / side) + 0.5 - y) <= BRUSH) cells[i] = 1;
  });
  drawCover();
}

// The fewest regions that hold half of the word's attention, but never more than a quarter of the photo.
function coverWord(map) {
  const regions = Math.round(Math.sqrt(map.length));
  const order = [...map.keys()].sort((a, b) => map[b] - map[a]);
  const hidden = new Set();
  let sum = 0;
  for (const region of order.slice(0, map.length / 4)) {
    if (sum >= 0.5) break;
    hidden.add(region);
    sum += map[region];
  }
  cells.forEach((_, i) => {
    const [row, column] = [Math.floor(i / side), i % side].map((cell) => Math.floor((cell * regions) / side));
    if (hidden.has(row * regions + column)) cells[i] = 1;
  });
  drawCover();
  ask();
}

function ask() {
  stop();
  find(".uncover").hidden = false;
  asked += 1;
  trigger("cover", { asked, cover: cells.join(""), caption: answer.words.map(({ text }) => text).join(" ") });
}

function uncover() {
  cells = new Uint8Array(side * side);
  drawCover();
  find(".again").hidden = find(".uncover").hidden = true;
  buttons().forEach((button, i) => {
    button.querySelector("small").textContent = percent(answer.words[i].probability);
    button.setAttribute("aria-label", labelOf(answer.words[i]));
    button.style.removeProperty("--fallen");
  });
}

// Beside each word: how likely it was, and how likely it is now.
function renderCovered() {
  const { covered } = props;
  if (!covered || covered.asked !== asked || !cells.some(Boolean)) return;
  find(".again").hidden = false;
  find(".second").textContent = covered.caption;
  find(".spoken").textContent = `${texts.covered} ${covered.caption}`;
  buttons().forEach((button, i) => {
    const [before, after] = [answer.words[i].probability, covered.probabilities[i]];
    button.querySelector("small").textContent = `${percent(before)} → ${percent(after)}`;
    button.style.setProperty("--fallen", Math.max(0, 1 - after / before));
    const values = { word: answer.words[i].text, before: percent(before), after: percent(after) };
    button.setAttribute("aria-label", fill(texts.fallen, values));
  });
}

function setPainting(on) {
  painting = on;
  frame.classList.toggle("painting", on);
  find(".paint").setAttribute("aria-pressed", String(on));
  if (on) light(null);
}

find(".paint").addEventListener("click", () => setPainting(!painting));
find(".conceal").addEventListener("click", () => coverWord(answer.words[lastShown].map));
find(".uncover").addEventListener("click", uncover);
frame.addEventListener("pointerdown", (event) => {
  if (!painting) return;
  event.preventDefault();
  frame.setPointerCapture(event.pointerId);
  paint(event);
});
frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && paint(event));
frame.addEventListener("pointerup", (event) => frame.hasPointerCapture(event.pointerId) && ask());

new ResizeObserver(() => {
  draw();
  drawCover();
}).observe(picture);
watch("covered", renderCovered);
watch("value", render);
render();
