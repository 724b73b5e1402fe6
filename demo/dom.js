// Helpers for the page's elements.

import { texts } from "./i18n.js";

export function createElement(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  if (tag === "button") node.type = "button";
  return node;
}

// Give each element inside `root` that has a data-text the text of this name.
export function fillTexts(root) {
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = texts[node.dataset.text];
}
