// The caption as one sentence above its words, and what can be taken along: its text, a picture of all maps, a film.

const FRAME_TIME = 900; // milliseconds, as the words are played on the page
const LAST_FRAME_TIME = 2500;

function renderSentence() {
  find(".sentence-box").hidden = !answer.words.length;
  find(".sentence").replaceChildren(
    ...answer.words.flatMap(({ text }, i) => [i ? " " : "", createElement("span", "", text)]),
  );
  find(".status").textContent = "";
}

function markSpoken(index) {
  [...find(".sentence").children].forEach((word, i) => word.classList.toggle("shown", i === index));
}

async function copySentence() {
  try {
    await navigator.clipboard.writeText(answer.caption);
    return texts.copied;
  } catch {
    // Without HTTPS, browsers offer no clipboard. Select the sentence, which the older command copies.
    getSelection().selectAllChildren(find(".sentence"));
    return document.execCommand("copy") ? texts.copied : texts.copy_failed;
  }
}

function download(blob, extension) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${answer.caption.slice(0, 80).replace(/[^\p{L}\p{M}\p{N}]+/gu, "-")}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return fill(texts.saved, { name: link.download });
}

const toBlob = (canvas, type) => new Promise((resolve) => canvas.toBlob(resolve, type, 0.9));

async function savePicture() {
  const picture = drawPicture(photo, answer.words, paintMap, texts.picture_note);
  return download(await toBlob(picture, "image/png"), "png");
}

async function saveFilm() {
  const canvases = drawFilm(photo, answer.words, paintMap);
  const blobs = await Promise.all(canvases.map((canvas) => toBlob(canvas, "image/webp")));
  if (blobs[0].type !== "image/webp") return texts.film_unsupported; // Safari writes PNG instead
  const pictures = await Promise.all(blobs.map(async (blob) => new Uint8Array(await blob.arrayBuffer())));
  const durations = pictures.map((_, i) => (i + 1 < pictures.length ? FRAME_TIME : LAST_FRAME_TIME));
  const film = animateWebp(pictures, durations, canvases[0].width, canvases[0].height);
  return download(new Blob([film], { type: "image/webp" }), "webp");
}

for (const [name, action] of Object.entries({ copy: copySentence, "save-picture": savePicture, "save-film": saveFilm })) {
  find(`.${name}`).addEventListener("click", async () => {
    find(".status").textContent = ""; // so that the same message is announced again
    find(".status").textContent = await action();
  });
}
