// The picture and its sentence. Gradio runs this once, with `element`, `props`, `trigger`, `upload` and `watch` given.
// The answer (props.value) holds every number, so that looking around asks the server nothing.

const find = (selector) => element.querySelector(selector);
const [stage, frame, picture, canvas, words] = [".stage", ".frame", ".picture", ".map", ".words"].map(find);
const buttons = () => [...words.querySelectorAll(".word")];
const settings = { regions: false, blur: 0.5, strength: 1 };
let answer = {};
let shown = null; // the word whose map is drawn
let lastShown = null; // the word that "cover where it looked" is about
let pinned = null; // the word that was clicked: its map stays when the pointer leaves
let place = null; // the region that the pointer is over
let film = null; // the timer that walks through the words

for (const part of element.querySelectorAll("[data-text]")) part.textContent = texts[part.dataset.text];

function fit(canvas) {
  const box = picture.getBoundingClientRect();
  const [width, height] = [box.width, box.height].map((size) => Math.max(1, Math.round(size * devicePixelRatio)));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}

function draw() {
  fit(canvas);
  clear(canvas);
  if (place !== null) drawPlace(canvas, place, Math.round(Math.sqrt(answer.words[0].map.length)));
  if (shown === null) return;
  const { map } = answer.words[shown];
  if (settings.regions) drawRegions(canvas, map, settings);
  else drawSmooth(canvas, map, settings);
}

function show(number) {
  shown = number;
  if (number !== null) lastShown = number;
  find(".conceal").hidden = lastShown === null;
  if (lastShown !== null) find(".conceal").textContent = fill(texts.hide, { word: answer.words[lastShown].text });
  buttons().forEach((button, i) => button.classList.toggle("shown", i === number));
  draw();
}

function pin(number) {
  pinned = pinned === number ? null : number;
  buttons().forEach((button, i) => {
    button.setAttribute("aria-pressed", String(i === pinned));
    button.parentElement.classList.toggle("open", i === pinned);
  });
  show(pinned);
}

// The other way round: a place in the picture lights the words that looked there.
function light(region) {
  if (region === place) return;
  place = region;
  buttons().forEach((button, i) => {
    const { map } = answer.words[i];
    button.style.setProperty("--light", region === null ? 0 : map[region] / brightest(map));
  });
  show(region === null ? pinned : null);
}

function regionAt(event) {
  const box = picture.getBoundingClientRect();
  const side = Math.round(Math.sqrt(answer.words[0].map.length));
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (x < 0 || x >= 1 || y < 0 || y >= 1) return null;
  return Math.floor(y * side) * side + Math.floor(x * side);
}

// Walk through the words. The first time each appears as it is said.
function play(unfold) {
  stop();
  const items = [...words.children];
  if (unfold) items.forEach((item) => item.classList.add("unsaid"));
  let number = 0;
  const step = () => {
    if (number === items.length) return stop();
    items[number].classList.remove("unsaid");
    show(number++);
    film = setTimeout(step, unfold ? 320 : 900);
  };
  find(".play").textContent = texts.stop;
  step();
}

function stop() {
  if (film === null) return;
  clearTimeout(film);
  film = null;
  for (const item of words.children) item.classList.remove("unsaid");
  find(".play").textContent = texts.play;
  show(pinned);
}

// The words before this place stand, this one is the visitor's, the decoder goes on from there.
function goOn(number, word) {
  const begun = answer.words.slice(0, number).map(({ text }) => text);
  trigger("go_on", { text: [...begun, word].join(" ") });
}

function render() {
  stop();
  answer = JSON.parse(JSON.stringify(props.value || {})); // Gradio watches its own copy
  for (const word of answer.words || []) word.map = word.map.flat();
  pinned = shown = lastShown = place = null;
  const message = find(".message");
  // A refused photo is taken out of the input, so that the next can come in; its message stays until then.
  if (answer.message || answer.photo) message.textContent = answer.message || (answer.words.length ? "" : texts.empty);
  message.hidden = !message.textContent;
  if (answer.message) trigger("another");
  const left = document.activeElement; // what the keyboard was on, if this is about to vanish
  const byKeyboard = left?.matches(":focus-visible") && stage.contains(left);
  stage.hidden = !answer.photo;
  document.querySelector("#see").classList.toggle("answered", Boolean(answer.photo));
  if (!answer.photo) {
    if (byKeyboard) document.querySelector("#photo button")?.focus();
    return;
  }
  picture.src = answer.photo;
  picture.alt = fill(texts.picture, { caption: answer.caption });
  words.replaceChildren(...answer.words.map((word, number) => makeWord(word, number, answer.begun || 0)));
  words.setAttribute("aria-label", texts.caption);
  find(".spoken").textContent = answer.caption;
  find(".beams").hidden = answer.beams.length < 2;
  find(".beams ol").replaceChildren(...answer.beams.map(makeBeam));
  uncover();
  show(null);
  if (byKeyboard && !left.isConnected) buttons()[Math.max(0, answer.begun - 1)]?.focus();
  else if (answer.words.length && !matchMedia("(prefers-reduced-motion: reduce)").matches) play(true);
}

const numberOf = (event) => {
  const button = event.target.closest(".word");
  return button ? Number(button.dataset.number) : null;
};

for (const kind of ["pointerover", "focusin"]) {
  words.addEventListener(kind, (event) => {
    if (numberOf(event) === null) return;
    stop();
    show(numberOf(event));
  });
}
for (const kind of ["pointerleave", "focusout"]) {
  words.addEventListener(kind, () => film === null && show(pinned));
}
words.addEventListener("click", (event) => numberOf(event) !== null && pin(numberOf(event)));
words.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step === undefined || numberOf(event) === null) return;
  event.preventDefault();
  buttons()[numberOf(event) + step]?.focus();
});
frame.addEventListener("pointermove", (event) => {
  if (painting || film !== null || !answer.words.length) return;
  light(regionAt(event));
});
frame.addEventListener("pointerleave", () => light(null));
find(".play").addEventListener("click", () => (film === null ? play(false) : stop()));
find(".regions").addEventListener("click", (event) => {
  settings.regions = !settings.regions;
  event.currentTarget.setAttribute("aria-pressed", String(settings.regions));
  draw();
});
for (const name of ["blur", "strength"]) {
  find(`.${name}`).addEventListener("input", (event) => {
    settings[name] = Number(event.target.value);
    draw();
  });
}
find(".another").addEventListener("click", () => trigger("another"));
