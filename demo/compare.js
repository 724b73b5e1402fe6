// Side by side: when a word is shown on one side, the other side shows the same word, if its caption has it.

const comparison = element.closest("#comparison");

function announceWord(index) {
  comparison.dispatchEvent(new CustomEvent("word-shown", { detail: { viewer, index, text: answer.words[index]?.text } }));
}

// The occurrence of a word that is nearest to a position in the caption, or undefined.
function nearestWord(text, position) {
  const found = [...answer.words.keys()].filter((index) => answer.words[index].text === text);
  return found.sort((a, b) => Math.abs(a - position) - Math.abs(b - position))[0];
}

comparison.addEventListener("word-shown", ({ detail }) => {
  if (detail.viewer === viewer || !answer.words) return;
  stop();
  showWord(nearestWord(detail.text, detail.index) ?? pinned);
});
for (const type of ["pointerover", "focusin"]) {
  words.addEventListener(type, (event) => wordIndex(event) !== null && announceWord(wordIndex(event)));
}
for (const type of ["pointerleave", "focusout"]) words.addEventListener(type, () => announceWord(pinned));
