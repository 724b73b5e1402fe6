// Undo, redo, and the original caption, after a visitor has chosen alternatives.

import { texts } from "./i18n.js";

// An answer that begins with words of the visitor continues the one before; any other one begins anew.
export function addHistory(viewer) {
  const [undo, redo, original] = [".undo", ".redo", ".original"].map((selector) => viewer.find(selector));
  let [answers, current] = [[], 0];
  for (const [button, name] of [[undo, "undo"], [redo, "redo"]]) {
    button.title = texts[name];
    button.setAttribute("aria-label", texts[name]);
  }

  function update() {
    undo.disabled = original.disabled = current === 0;
    redo.disabled = current >= answers.length - 1;
  }

  function go(index) {
    if (!answers[index]) return;
    current = index;
    viewer.show(answers[index]);
  }

  viewer.addEventListener("answer", () => {
    const { answer } = viewer;
    if (answer !== answers[current]) {
      answers = answer.prefix_length ? [...answers.slice(0, current + 1), answer] : [answer];
      current = answers.length - 1;
    }
    update();
  });
  undo.addEventListener("click", () => go(current - 1));
  redo.addEventListener("click", () => go(current + 1));
  original.addEventListener("click", () => go(0));
  viewer.element.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("input")) return;
    event.preventDefault();
    go(current + (event.shiftKey ? 1 : -1));
  });
}
