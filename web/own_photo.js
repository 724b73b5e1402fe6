// The visitor's own photo in this tab's session, so that a reload brings it back. It stays in the browser.

import { writeState } from "./page_state.js";

const KEY = "captioner-photo";

// Name the photo in the address, with the first tab, which shows it, and keep it unless it is too large for a session, a
// few megabytes.
export function keepPhoto(file) {
  const id = String(Number(read().id ?? 0) + 1);
  writeState({ tab: null, example: null, photo: id, text: null, word: null }, true);
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    try {
      sessionStorage.setItem(KEY, JSON.stringify({ id, name: file.name, type: file.type, url: reader.result }));
    } catch {
      sessionStorage.setItem(KEY, JSON.stringify({ id })); // without the photo
    }
  });
  reader.readAsDataURL(file);
}

// The photo with this id in the address, or null.
export function keptPhoto(id) {
  const { url, name, type, ...kept } = read();
  if (!url || kept.id !== id) return null;
  const bytes = Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (character) => character.charCodeAt(0));
  return new File([bytes], name, { type });
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
