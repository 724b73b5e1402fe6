// Photos as browsers give them: files that are chosen, dropped or pasted, and whole folders of them.

import { fill, texts } from "./i18n.js";

const MAX_DISPLAY_SIDE = 1280; // pixels, longer side of the photo as the page displays it
const MIN_DISPLAY_SIDE = 480; // a map is unreadable on anything smaller

// The pixels of a file, an ImageBitmap. Throws an Error with a sentence for the visitor.
export async function decodePhoto(file) {
  try {
    // As in Python: turned by its EXIF data, but without its color profile.
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch (error) {
    throw new Error(fill(texts.unreadable_photo, { name: file.name }), { cause: error });
  }
}

// A photo at the size at which the page displays it, or with its longer side as long as `side`, as the address of a JPEG.
export function photoUrl(bitmap, side) {
  const longer = Math.max(bitmap.width, bitmap.height);
  const scale = (side ?? Math.min(Math.max(longer, MIN_DISPLAY_SIDE), MAX_DISPLAY_SIDE)) / longer;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height].map((size) => Math.max(1, Math.round(size * scale)));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.88);
}

// The files of what was dropped or pasted, those of folders too, as [path, File].
export async function filesOf(transfer) {
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.()); // before anything is awaited: then they are gone
  const files = [...transfer.files].map((file) => [file.name, file]);
  if (!entries.some((entry) => entry?.isDirectory)) return files;
  return (await Promise.all(entries.filter(Boolean).map(walk))).flat();
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return entry.name.startsWith(".") ? [] : [[entry.fullPath.slice(1), file]];
  }
  const reader = entry.createReader();
  const entries = [];
  for (;;) { // it gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    entries.push(...some);
  }
  return (await Promise.all(entries.map(walk))).flat();
}
