// The page: takes photos, asks the worker for captions, and shows them in the viewer that it shares with the Gradio page.

import { mountViewer } from "./attention_viewer.js";
import { fillTexts } from "./dom.js";
import { fill, formatNumber, language, texts } from "./i18n.js";

const MASK_SIDE = 48; // cells per side of the grid in which a visitor covers parts of the photo
const MAX_DISPLAY_SIDE = 1280; // pixels, longer side of the photo as the page displays it
const MIN_DISPLAY_SIDE = 480; // a map is unreadable on anything smaller

const query = (selector) => document.querySelector(selector);
const sliders = [...document.querySelectorAll("#settings input")];
const answers = new Map(); // id of a request to the worker -> the function that takes its result
let requests = 0;
let newest = 0; // the number of the newest photo or caption; the results of earlier ones are ignored
let worker; // none if the browser has no WebAssembly

await installServiceWorker();

const watchers = {};
const props = { mask_side: MASK_SIDE, value: {}, occlusion: null };
let droppedPhoto; // the last photo dropped on the viewer or pasted
mountViewer({
  element: query("#viewer"),
  props,
  trigger: (event, data) => queueMicrotask(() => events[event](data)), // once the viewer has done what it is doing
  upload: async (file) => (droppedPhoto = file),
  watch: (name, callback) => (watchers[name] = callback),
});
const events = {
  continue_caption: ({ text }) => caption({ text }),
  caption_masked: captionMasked,
  remove_photo: () => show({}),
  photo_uploaded: () => openPhoto(droppedPhoto),
};

function setProp(name, value) {
  props[name] = value;
  watchers[name]();
}

// Wait until the service worker has stored the page; the model's files are loaded through it. Reload the page if that
// isolates it, so that the model can use threads. Without a service worker, everything but these two works.
async function installServiceWorker() {
  if (!navigator.serviceWorker || navigator.serviceWorker.controller) return;
  try {
    const registration = await navigator.serviceWorker.register("service_worker.js", { updateViaCache: "none" });
    const installing = registration.installing ?? registration.waiting ?? registration.active;
    await new Promise((resolve) => {
      const check = () => ["activated", "redundant"].includes(installing.state) && resolve();
      installing.addEventListener("statechange", check);
      check();
    });
  } catch {
    return; // such as in a private window
  }
  if (navigator.serviceWorker.controller && !crossOriginIsolated) {
    location.reload();
    await new Promise(() => {}); // nothing else until then
  }
}

function startWorker() {
  if (typeof WebAssembly !== "object") return fail(texts.no_webassembly);
  worker = new Worker("worker.js", { type: "module" });
  worker.onerror = () => fail(texts.model_not_loaded);
  worker.onmessage = ({ data: { id, result, error } }) => {
    if (error) {
      console.warn(error);
      fail(texts.model_not_loaded);
    } else {
      answers.get(id)(result);
    }
    answers.delete(id);
  };
  ask("load").then(initializeSettings);
}

function ask(action, values, transferred = []) {
  const id = ++requests;
  worker.postMessage({ id, action, ...values }, transferred);
  return new Promise((resolve) => answers.set(id, resolve));
}

// From now on, the page is of no use.
function fail(sentence) {
  worker = undefined;
  query("#viewer").classList.remove("busy");
  query("#status").textContent = "";
  query("#failure").textContent = sentence;
  query("#failure").hidden = false;
}

async function openPhoto(file) {
  if (!file || !worker) return;
  let bitmap;
  try {
    // As in Python: turned by its EXIF data, but without its colour profile.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    return show({ message: fill(texts.unreadable_photo, { name: file.name }) });
  }
  await caption({ bitmap, photo: photoUrl(bitmap) });
}

// The photo at display size as a data URL.
function photoUrl(bitmap) {
  const longer = Math.max(bitmap.width, bitmap.height);
  const scale = Math.min(Math.max(longer, MIN_DISPLAY_SIDE), MAX_DISPLAY_SIDE) / longer;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.88);
}

// Caption a new photo, or the current one if there is no bitmap, and show the caption unless there is something newer.
async function caption({ bitmap, photo = props.value.photo, text = "" }) {
  const number = ++newest;
  query("#viewer").classList.add("busy");
  const result = await ask("caption", { bitmap, text, settings: settings() }, bitmap ? [bitmap] : []);
  if (number === newest) show({ ...result, photo, prefix_length: text ? text.split(" ").length : 0 });
}

// Show a caption with its photo, a message, or nothing.
function show(value) {
  newest += 1;
  query("#viewer").classList.remove("busy");
  setProp("value", value);
}

async function captionMasked({ request_id, mask, caption }) {
  setProp("occlusion", { ...(await ask("captionMasked", { mask, caption, settings: settings() })), request_id });
}

// Those of the model until it is loaded and the visitor can change them.
function settings() {
  return Object.fromEntries(sliders.filter(({ disabled }) => !disabled).map(({ name, value }) => [name, Number(value)]));
}

function initializeSettings(defaults) {
  for (const slider of sliders) {
    slider.value = defaults[slider.name] || 1;
    slider.disabled = false;
    showSetting(slider);
  }
  query("#status").textContent = "";
}

function showSetting(slider) {
  slider.parentElement.querySelector("output").textContent = formatNumber(Number(slider.value));
}

for (const slider of sliders) {
  slider.addEventListener("input", () => showSetting(slider));
  slider.addEventListener("change", () => props.value.photo && caption({}));
}
for (const button of document.querySelectorAll("#examples button")) {
  button.addEventListener("click", async () => {
    const { src } = button.querySelector("img");
    openPhoto(new File([await (await fetch(src)).blob()], src.split("/").pop()));
  });
}
const [input, drop] = [".photo-input input", ".photo-input button"].map(query);
drop.addEventListener("click", () => input.click());
drop.addEventListener("dragover", (event) => event.preventDefault());
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  openPhoto(event.dataTransfer.files[0]);
});
input.addEventListener("change", () => {
  openPhoto(input.files[0]);
  input.value = ""; // so that the same photo can be chosen again
});

// Texts such as "# Title\nDetail" are Markdown for Gradio.
for (const node of document.querySelectorAll("[data-title]")) node.textContent = texts[node.dataset.title].split("\n")[0].slice(2);
for (const node of document.querySelectorAll("[data-detail]")) node.textContent = texts[node.dataset.detail].split("\n")[1];
for (const part of document.querySelectorAll("main > :not(#viewer)")) fillTexts(part);
document.documentElement.lang = language;
document.documentElement.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
query("main").hidden = false;
query("#status").textContent = texts.loading_model;
startWorker();
