// The page: its tabs, the service worker, and the engine that all tabs share.

import { mountViewer } from "./attention_viewer.js";
import { addBatchTab } from "./batch_tab.js";
import { addCameraTab } from "./camera_tab.js";
import { addCompareTab } from "./compare_tab.js";
import { fillTexts } from "./dom.js";
import { Engine } from "./engine.js";
import { fill, formatNumber, language, texts } from "./i18n.js";
import { PhotoPanel } from "./photo_panel.js";
import { addPhotoInput, fillPlaceholders } from "./photo_input.js";
import { filesOf } from "./photos.js";
import { installServiceWorker } from "./installation.js";
import { mountLanguageSwitch } from "./language_switch.js";
import { addLectureTab } from "./lecture_tab.js";
import { keepPhoto, keptPhoto } from "./own_photo.js";
import { readState, rememberTabs, writeState } from "./page_state.js";
import { addSettings } from "./settings.js";
import { addTabs } from "./tabs.js";

const query = (selector) => document.querySelector(selector);
const opening = await (await fetch("opening.json")).json(); // see publishing/static_site.py
const engine = new Engine();

fillPlaceholders(document);
fillTexts(document);
for (const { content } of document.querySelectorAll("template")) fillTexts(content);
mountLanguageSwitch({ element: query("#language_switch") });
document.documentElement.lang = language;
document.documentElement.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);

// The first tab.
const captionTab = query("#caption_tab");
const settings = addSettings(query("#settings"), opening.languages, () => panel.caption());
const panel = new PhotoPanel(captionTab, engine, settings.options, mountViewer, { remembered: true, reopen });
addPhotoInput(captionTab.querySelector(".photo-input"), openOwn);
for (const button of document.querySelectorAll("#examples button")) {
  button.addEventListener("click", async () => {
    const { example } = button.dataset;
    if (readState("example") !== example) writeState({ example, photo: null, text: null, word: null }, true);
    panel.open(await fetchFile(button.querySelector("img").src));
  });
}
const example = opening.answers[settings.options().language ?? "only"];
if (example) panel.showExample(example, example.photo);

async function fetchFile(url) {
  return new File([await (await fetch(url)).blob()], url.split("/").pop());
}

function openOwn(file) {
  keepPhoto(file);
  panel.open(file);
}

// See addPageState.
function reopen(id) {
  const file = keptPhoto(id);
  if (file) queueMicrotask(() => panel.open(file));
  return Boolean(file);
}

function openInFirstTab(file) {
  openTab("caption_tab");
  openOwn(file);
}

// The others, each made when it is first opened.
const batch = addBatchTab(query("#batch_tab"), engine, settings.options, openInFirstTab);
const camera = addCameraTab(query("#camera_tab"), engine, settings.options, openInFirstTab);
let [lecture, compare] = [null, null];
let open; // the id of the open tab
const openTab = addTabs(query("[role=tablist]"), (id) => {
  open = id;
  if (id === "compare_tab") {
    compare ??= addCompareTab(query("#compare_tab"), engine, opening.languages);
    compare.open(panel.photo);
  }
  if (id === "how_tab") {
    lecture ??= addLectureTab(query("#how_tab"), engine, settings.options);
    lecture.open(panel);
  }
  if (id !== "camera_tab") camera.stop();
});
openTab("caption_tab");
rememberTabs();

// Photos may be dropped anywhere: a browser would otherwise leave the page for them. And pasted.
for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
addEventListener("drop", ({ target, dataTransfer }) => receive(dataTransfer, target));
addEventListener("paste", ({ target, clipboardData }) => clipboardData.files.length && receive(clipboardData, target));

async function receive(transfer, target) {
  const files = await filesOf(transfer);
  query("#status").textContent = files.length ? "" : texts.no_file_dropped;
  if (files.length === 0) return;
  if (files.length > 1 || open === "batch_tab") {
    openTab("batch_tab");
    batch.add(files);
  } else if (open === "compare_tab") {
    compare.receive(files[0][1], target);
  } else {
    openInFirstTab(files[0][1]);
  }
}

engine.addEventListener("progress", ({ detail: [arrived, all] }) => {
  if (document.documentElement.dataset.captioner === "ready") return; // what the lecture or a GPU needs besides
  const [done, total] = [arrived, all].map((bytes) => formatNumber(bytes / 1e6, 1));
  query("#status").textContent = fill(texts.loading_progress, { arrived: done, all: total });
});
engine.addEventListener("ready", ({ detail }) => {
  settings.ready(detail.settings);
  query("#status").textContent = "";
  document.documentElement.dataset.captioner = "ready";
});
engine.addEventListener("failure", ({ detail: reason }) => fail(fill(texts.model_not_loaded, { reason })));

function fail(sentence) {
  query("#status").textContent = "";
  query("#failure").textContent = sentence;
  query("#failure").hidden = false;
}

query("#status").textContent = texts.loading_model;
query("main").hidden = false;
if (typeof WebAssembly === "object") {
  await installServiceWorker(() => panel.photo && !panel.photo.opening); // the captioner's files are loaded through it
  engine.start();
  document.documentElement.dataset.captioner ??= "loading";
} else {
  engine.fail("WebAssembly");
  fail(texts.no_webassembly);
}
