// The field in which a visitor chooses a photo.

import { texts } from "./i18n.js";

export function addPhotoInput(element, onPhoto) {
  const [input, button] = [element.querySelector("input"), element.querySelector("button")];
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) onPhoto(input.files[0]);
    input.value = ""; // so that the same photo can be chosen again
  });
}

// Texts such as "# Title\nDetail" are Markdown for Gradio.
export function fillPlaceholders(root) {
  for (const node of root.querySelectorAll("[data-title]")) node.textContent = texts[node.dataset.title].split("\n")[0].slice(2);
  for (const node of root.querySelectorAll("[data-detail]")) node.textContent = texts[node.dataset.detail].split("\n")[1];
}
