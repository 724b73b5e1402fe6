// Shows a photo with its caption, and the attention map of the word under the pointer. Gradio runs this script once, with
// `element`, `props`, `trigger`, `upload` and `watch` in scope. `props.value` contains all maps, so exploring them needs no
// requests to the server.

const panel = element.closest(".caption-panel"); // also contains the photo input
const [viewer, frame, photo, canvas, words] = [".viewer", ".frame", ".photo", ".map", ".words"].map(find);
const wordButtons = () => [...words.querySelectorAll(".word")];
const mapOptions = { regions: false, blur: 0.5, strength: 1 };
let answer = {};
let shown = null; // the index of the word whose map is drawn
let lastShown = null; // the index of the word that "cover where it looked" refers to
let pinned = null; // the index of the clicked word, whose map stays when the pointer leaves
let hoveredRegion = null;
let timer = null; // set while the words are played one after another
// The index of the word whose map is drawn while none is pointed at.
const resting = () => pinned ?? answer.resting ?? null;

function resizeCanvas(canvas) {
  const box = photo.getBoundingClientRect();
  const [width, height] = [box.width, box.height].map((size) => Math.max(1, Math.round(size * devicePixelRatio)));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}

function drawMap() {
  resizeCanvas(canvas);
  clearCanvas(canvas);
  if (hoveredRegion !== null) outlineRegion(canvas, hoveredRegion, Math.round(Math.sqrt(answer.words[0].map.length)));
  if (shown === null) return;
  paintMap(canvas, answer.words[shown].map);
}

function paintMap(canvas, map) {
  if (mapOptions.regions) drawRegionMap(canvas, map, mapOptions);
  else drawSmoothMap(canvas, map, mapOptions);
}

function showWord(index) {
  shown = index;
  if (index !== null) lastShown = index;
  find(".cover-word").hidden = lastShown === null;
  if (lastShown !== null) find(".cover-word").textContent = fill(texts.cover_word, { word: answer.words[lastShown].text });
  wordButtons().forEach((button, i) => button.classList.toggle("shown", i === index));
  markSpoken(index);
  drawMap();
}

function togglePin(index) {
  pinned = pinned === index ? null : index;
  wordButtons().forEach((button, i) => {
    button.setAttribute("aria-pressed", String(i === pinned));
    button.parentElement.classList.toggle("open", i === pinned);
  });
  showWord(resting());
}

// Highlight the words by the attention that they pay to a region of the photo.
function highlightWords(region) {
  if (region === hoveredRegion) return;
  hoveredRegion = region;
  wordButtons().forEach((button, i) => {
    const { map } = answer.words[i];
    button.style.setProperty("--attention", region === null ? 0 : map[region] / maxWeight(map));
  });
  showWord(region === null ? resting() : null);
}

function regionAt(event) {
  const box = photo.getBoundingClientRect();
  const side = Math.round(Math.sqrt(answer.words[0].map.length));
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (x < 0 || x >= 1 || y < 0 || y >= 1) return null;
  return Math.floor(y * side) * side + Math.floor(x * side);
}

// Show the words' maps one after another. With `reveal`, each word is hidden until its turn.
function play(reveal) {
  stop();
  const items = [...words.children];
  if (reveal) items.forEach((item) => item.classList.add("upcoming"));
  let index = 0;
  const step = () => {
    if (index === items.length) return stop();
    items[index].classList.remove("upcoming");
    showWord(index++);
    timer = setTimeout(step, reveal ? 320 : 900);
  };
  find(".play").textContent = texts.stop;
  step();
}

function stop() {
  if (timer === null) return;
  clearTimeout(timer);
  timer = null;
  for (const item of words.children) item.classList.remove("upcoming");
  find(".play").textContent = texts.play;
  showWord(resting());
}

// Keep the words before `index`, put `word` in its place, and let the decoder continue from there.
function continueCaption(index, word) {
  const prefix = answer.words.slice(0, index).map(({ text }) => text);
  trigger("continue_caption", { text: [...prefix, word].join(" ") });
}

function render() {
  stop();
  answer = JSON.parse(JSON.stringify(props.value || {})); // a copy, because Gradio tracks changes of its own
  for (const word of answer.words || []) word.map = word.map.flat();
  pinned = shown = lastShown = hoveredRegion = null;
  const message = find(".message");
  // A photo that cannot be opened is removed from the input to make room for the next; its message stays until then.
  if (answer.message || answer.photo) {
    message.textContent = answer.message || (answer.words.length ? "" : texts.empty_caption);
  }
  message.hidden = !message.textContent;
  if (answer.message) trigger("remove_photo");
  const focused = document.activeElement; // may be removed below
  const keyboardFocus = focused?.matches(":focus-visible") && viewer.contains(focused);
  viewer.hidden = !answer.photo;
  panel.classList.toggle("has-caption", Boolean(answer.photo));
  panel.classList.toggle("opening", Boolean(answer.opening));
  if (!answer.photo) {
    words.replaceChildren();
    if (keyboardFocus) panel.querySelector(".photo-input button")?.focus();
    return;
  }
  photo.src = answer.photo;
  photo.alt = fill(answer.opening ? texts.example_alt : texts.photo_alt, { caption: answer.caption });
  renderSentence();
  words.replaceChildren(...answer.words.map((word, index) => createWord(word, index, answer.prefix_length || 0)));
  words.setAttribute("aria-label", texts.caption);
  find(".announcement").textContent = answer.caption;
  find(".beams").hidden = answer.beams.length < 2;
  find(".beams ol").replaceChildren(...answer.beams.map(createBeam));
  find(".remove-photo").hidden = Boolean(answer.opening);
  uncover();
  showWord(resting());
  if (keyboardFocus && !focused.isConnected) wordButtons()[Math.max(0, answer.prefix_length - 1)]?.focus();
  else if (answer.words.length && !matchMedia("(prefers-reduced-motion: reduce)").matches) play(true);
}

const wordIndex = (event) => {
  const button = event.target.closest(".word");
  return button ? Number(button.dataset.index) : null;
};

for (const type of ["pointerover", "focusin"]) {
  words.addEventListener(type, (event) => {
    if (wordIndex(event) === null) return;
    stop();
    showWord(wordIndex(event));
  });
}
for (const type of ["pointerleave", "focusout"]) {
  words.addEventListener(type, () => timer === null && showWord(resting()));
}
words.addEventListener("click", (event) => wordIndex(event) !== null && togglePin(wordIndex(event)));
words.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step === undefined || wordIndex(event) === null) return;
  event.preventDefault();
  wordButtons()[wordIndex(event) + step]?.focus();
});
frame.addEventListener("pointermove", (event) => {
  if (isBrushActive || timer !== null || !answer.words.length) return;
  highlightWords(regionAt(event));
});
frame.addEventListener("pointerleave", () => highlightWords(null));
find(".play").addEventListener("click", () => (timer === null ? play(false) : stop()));
find(".regions").addEventListener("click", (event) => {
  mapOptions.regions = !mapOptions.regions;
  event.currentTarget.setAttribute("aria-pressed", String(mapOptions.regions));
  drawMap();
});
for (const name of ["blur", "strength"]) {
  find(`.${name}`).addEventListener("input", (event) => {
    mapOptions[name] = Number(event.target.value);
    drawMap();
  });
}
find(".remove-photo").addEventListener("click", () => trigger("remove_photo"));
