// Captions of many photos: a folder or hundreds of files in, a table, CSV and JSON out.

import { createElement } from "./dom.js";
import { fill, formatNumber, texts } from "./i18n.js";
import { decodePhoto, photoUrl } from "./photos.js";

const THUMBNAIL_SIDE = 96; // pixels
const COLUMNS = ["file", "caption", "log_probability", "problem"];

export function addBatchTab(element, engine, options, openPhoto) {
  const find = (selector) => element.querySelector(selector);
  const [status, progress, body] = [".batch-status", "progress", "tbody"].map(find);
  const rows = []; // { file, caption, log_probability, problem } of the photos that are done
  let waiting = []; // [path, File] of the others
  let running = false;
  let gpuTried = false;

  find("thead tr").append(...[texts.batch_photo, ...texts.batch_empty.headers].map((text) => createElement("th", "", text)));

  // Caption more photos, given as [path, File].
  async function add(files) {
    waiting.push(...files);
    find(".failed").textContent = "";
    status.textContent = files.length ? status.textContent : texts.batch_no_files;
    if (running || !waiting.length) return;
    running = true;
    find(".table").hidden = progress.hidden = find(".stop").hidden = false;
    if (!gpuTried) engine.request("tryGpu").catch(console.warn);
    gpuTried = true;
    while (waiting.length) {
      showProgress();
      const [path, file] = waiting.shift();
      await caption(path, file);
    }
    running = false;
    progress.hidden = find(".stop").hidden = true;
    showProgress();
    showFailed();
    for (const name of ["csv", "json"]) find(`.${name}`).disabled = !rows.length;
  }

  async function caption(path, file) {
    const row = { file: path, caption: "", log_probability: null, problem: "" };
    let thumbnail = null;
    try {
      const bitmap = await decodePhoto(file);
      thumbnail = photoUrl(bitmap, THUMBNAIL_SIDE);
      const answer = await engine.request("captionOnce", { bitmap, options: options() }, [bitmap]);
      row.caption = answer.caption;
      row.log_probability = answer.log_probability;
    } catch (error) {
      row.problem = error.message;
    }
    rows.push(row);
    body.append(createRow(row, thumbnail, () => openPhoto(file)));
  }

  function showProgress() {
    progress.max = rows.length + waiting.length;
    progress.value = rows.length;
    status.textContent = fill(texts.batch_progress, { done: rows.length, all: rows.length + waiting.length });
  }

  function showFailed() {
    const failed = rows.filter(({ problem }) => problem).map(({ file }) => file);
    const values = { failed: failed.length, all: rows.length, names: failed.join(", ") };
    find(".failed").textContent = failed.length ? fill(texts.batch_failed, values) : "";
  }

  for (const [button, name] of [["choose", "files"], ["choose-folder", "folder"]]) {
    const input = find(`.${name}`);
    find(`.${button}`).addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      add([...input.files].map((file) => [file.webkitRelativePath || file.name, file]).filter(([path]) => !isHidden(path)));
      input.value = "";
    });
  }
  find(".stop").addEventListener("click", () => (waiting = []));
  find(".csv").addEventListener("click", () => save("captions.csv", "text/csv", toCsv(rows)));
  find(".json").addEventListener("click", () => save("captions.json", "application/json", JSON.stringify(rows, null, 2)));
  return { add };
}

// Whether it is a file that operating systems keep in folders, such as .DS_Store.
function isHidden(path) {
  return path.split("/").some((part) => part.startsWith("."));
}

function createRow({ file, caption, log_probability: logProbability, problem }, thumbnail, open) {
  const row = createElement("tr", "");
  const cell = createElement("td", "");
  if (thumbnail) {
    const button = createElement("button", "thumbnail");
    const image = createElement("img", "");
    image.src = thumbnail;
    image.alt = "";
    button.setAttribute("aria-label", fill(texts.batch_open, { name: file }));
    button.append(image);
    button.addEventListener("click", open);
    cell.append(button);
  }
  const number = logProbability === null ? "" : formatNumber(logProbability, 2);
  row.append(cell, ...[file, caption, number, problem].map((text) => createElement("td", "", text)));
  return row;
}

// Comma-separated values for spreadsheets: the mark at the beginning tells them that it is UTF-8, and a text that they would
// take for a formula begins with an apostrophe.
function toCsv(rows) {
  const quote = (value) => {
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = [COLUMNS, ...rows.map((row) => COLUMNS.map((column) => row[column]))];
  return `\ufeff${lines.map((line) => `${line.map(quote).join(",")}\r\n`).join("")}`;
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
