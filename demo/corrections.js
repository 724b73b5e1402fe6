// The sheet in which a caption is corrected: it opens beside the caption, and the photo stays in sight.

import { texts } from "./i18n.js";

// Let the buttons "Correct it" open the sheet, and its own button and Escape close it.
export function addCorrections() {
  const sheet = document.querySelector("#corrections");
  sheet.setAttribute("role", "dialog");
  sheet.setAttribute("aria-label", texts.corrections);
  let opener;
  const toggle = (open) => {
    document.body.classList.toggle("correcting", open);
    if (open) setTimeout(() => sheet.querySelector("textarea, input")?.focus());
    else opener?.focus();
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.correct");
    if (button) {
      opener = button;
      toggle(true);
    } else if (event.target.closest("#close_corrections")) toggle(false);
  });
  sheet.addEventListener("keydown", (event) => event.key === "Escape" && toggle(false));
}
