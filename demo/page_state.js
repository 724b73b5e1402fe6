// What the visitor sees, in the address of the page: back, reload and a shared link bring it back. Nonsense in an address
// is ignored.

const MAX_WORDS = 40;
const UNCHANGED = { __type__: "update" }; // as Gradio understands it
const OWN_PHOTOS = "captioner-photos"; // in the tab's session: the server keeps uploads for an hour or two
let chosenExample = null; // the name of the example that was clicked last

document.addEventListener("click", ({ target }) => {
  chosenExample = target.closest?.("[data-example]")?.dataset.example ?? chosenExample;
});

export function readState(name) {
  return new URLSearchParams(location.search).get(name);
}

// A whole number from 0 to `maximum` in the address, or null.
export function readIndex(name, maximum = Infinity) {
  const text = readState(name);
  return /^\d{1,4}$/.test(text ?? "") && Number(text) <= maximum ? Number(text) : null;
}

// Write values into the address; null removes one. With `push`, the browser's button "back" undoes it.
export function writeState(values, push = false) {
  const url = new URL(location);
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === "") url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  if (url.href === location.href) return;
  if (push) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
}

// What components are set to when the page opens: values in the address that are allowed. `components` are [name, default,
// allowed], where `allowed` is a list of values, or [minimum, maximum] of a number.
export function restoreValues(components) {
  return components.map(([name, initial, allowed]) => {
    const text = readState(name);
    if (text === null) return UNCHANGED;
    if (typeof initial !== "number") return allowed.includes(text) ? text : UNCHANGED;
    const [value, [minimum, maximum]] = [Number(text), allowed];
    return text !== "" && value >= minimum && value <= maximum ? value : UNCHANGED;
  });
}

export function rememberValues(components, values) {
  writeState(Object.fromEntries(components.map(([name, initial], i) => [name, values[i] === initial ? null : values[i]])));
}

// Remember the tab that is open, by its place, and open the one in the address.
export function rememberTabs() {
  const tabs = () => [...document.querySelectorAll("[role=tablist] [role=tab]")];
  document.addEventListener("click", (event) => {
    const index = tabs().indexOf(event.target.closest("[role=tab]"));
    if (index >= 0 && event.isTrusted) writeState({ tab: index || null }, true);
  });
  addEventListener("popstate", () => location.reload());
  const index = readIndex("tab");
  if (index) tabs()[index]?.click();
}

// Remember which photo is shown: an example by its name; another one, `photo`, as long as the server keeps it.
export function rememberPhoto(photo) {
  const example = chosenExample === baseName(photo?.orig_name) ? chosenExample : null; // not an own photo of the same name
  // Until the new photo has its caption; for good, if the server is lost.
  document.querySelector("#caption_tab").classList.toggle("waiting", Boolean(photo));
  if (!photo) return writeState({ example: null, photo: null, text: null, word: null });
  chosenExample = null;
  if (example && readState("example") === example) return undefined; // brought back just now
  if (example) return writeState({ example, photo: null, text: null, word: null }, true);
  const photos = ownPhotos();
  const known = Object.keys(photos).find((id) => photos[id].path === photo.path);
  const id = known ?? String(Object.keys(photos).length + 1);
  sessionStorage.setItem(OWN_PHOTOS, JSON.stringify({ ...photos, [id]: { path: photo.path, url: photo.url, orig_name: photo.orig_name } }));
  writeState({ example: null, photo: id, ...(known ? {} : { text: null, word: null }) }, !known);
}

const baseName = (name) => (name ?? "").replace(/\.\w+$/, "");

function ownPhotos() {
  try {
    return JSON.parse(sessionStorage.getItem(OWN_PHOTOS)) ?? {};
  } catch {
    return {};
  }
}

// Bring back the photo, the beginning of the caption and the pinned word of `viewer`, and remember them from now on.
// `reopen(id, viewer)` brings back the visitor's own photo with this id in the address, and returns whether it will come.
export function addPageState(viewer, reopen = reopenUpload) {
  const pending = { text: validText(readState("text")), word: readIndex("word") };
  let waitsForPhoto = restorePhoto(viewer, reopen);
  viewer.addEventListener("answer", () => {
    const { answer } = viewer;
    if (answer.pending || (waitsForPhoto && answer.opening)) return;
    waitsForPhoto = false;
    if (pending.text) {
      queueMicrotask(() => viewer.trigger("continue_caption", { text: pending.text }));
      setTimeout(() => (pending.text = null)); // once it has been sent
      return;
    }
    const begun = answer.words.slice(0, answer.prefix_length || 0).map(({ text }) => text);
    if (begun.join(" ") !== (readState("text") ?? "")) writeState({ text: begun.join(" "), word: null }, begun.length > 0);
    if (pending.word !== null && answer.words[pending.word]) {
      const { word } = pending;
      queueMicrotask(() => viewer.pinned !== word && viewer.togglePin(word));
    }
    pending.word = null;
  });
  viewer.addEventListener("pin", () => writeState({ word: viewer.pinned }));
}

function validText(text) {
  const words = (text ?? "").split(/\s+/).filter(Boolean);
  return words.length <= MAX_WORDS && (text ?? "").length <= 300 ? words.join(" ") : "";
}

// Returns whether a photo will come.
function restorePhoto(viewer, reopen) {
  const name = readState("example");
  if (name) {
    const click = () => {
      const button = viewer.panel.querySelector(`[data-example="${CSS.escape(name)}"]`);
      if (button) queueMicrotask(() => button.click()); // once the page has added what it does then
      return Boolean(button);
    };
    if (click()) return true;
    const observer = new MutationObserver(() => click() && observer.disconnect()); // until the examples have their names
    observer.observe(viewer.panel, { childList: true, subtree: true, attributeFilter: ["data-example"] });
    setTimeout(() => observer.disconnect(), 10_000); // there is no such example
    return true;
  }
  return reopen(readState("photo"), viewer);
}

function reopenUpload(id, viewer) {
  const own = ownPhotos()[id];
  if (!own) return false;
  fetch(own.url, { method: "HEAD" }).then(({ ok }) => {
    if (!ok) return;
    viewer.panel.uploadedPhoto = { ...own, meta: { _type: "gradio.FileData" } };
    viewer.trigger("photo_uploaded");
  }, () => {}); // offline
  return true;
}
