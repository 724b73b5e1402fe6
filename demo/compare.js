// Side by side: when a word is shown on one side, the other side shows the same word, if its caption has it.

import { mountViewer, wordIndex } from "./attention_viewer.js";

// `mountViewer` for one of the viewers in the same #comparison.
export function mountComparedViewer(context) {
  const viewer = mountViewer(context);
  const comparison = viewer.element.closest("#comparison");

  function announceWord(index) {
    const text = viewer.answer.words[index]?.text;
    comparison.dispatchEvent(new CustomEvent("word-shown", { detail: { viewer, index, text } }));
  }

  comparison.addEventListener("word-shown", ({ detail }) => {
    if (detail.viewer === viewer || !viewer.answer.words) return;
    viewer.stop();
    const { index, text } = detail;
    viewer.showWord(index === null ? viewer.pinned : (nearestWord(viewer.answer.words, text, index) ?? null));
  });
  for (const type of ["pointerover", "focusin"]) {
    viewer.words.addEventListener(type, (event) => wordIndex(event) !== null && announceWord(wordIndex(event)));
  }
  for (const type of ["pointerleave", "focusout"]) {
    viewer.words.addEventListener(type, () => announceWord(null));
  }
  return viewer;
}

// The index of the occurrence of a word that is nearest to a position in the caption, or undefined.
function nearestWord(words, text, position) {
  const found = [...words.keys()].filter((index) => words[index].text === text);
  return found.sort((a, b) => Math.abs(a - position) - Math.abs(b - position))[0];
}
