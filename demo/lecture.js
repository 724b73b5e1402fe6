// The lecture, live: every number below was sent once, for the visitor's own photo.

const find = (selector) => element.querySelector(selector);
let talk = {}; // what demo/lecture.py says
let step = 0; // the place in the sentence
let head = 0; // the attention's head

for (const part of element.querySelectorAll("[data-text]")) part.textContent = texts[part.dataset.text];

const tell = (name, values) => (find(`.${name}-text`).textContent = fill(texts[`lecture_${name}_text`], values));
const number = (value, digits) => value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });

function renderPixels({ original, size, photo, channels, window }) {
  tell("pixels", { width: original[0], height: original[1], size });
  find(".whole").src = photo;
  find(".whole").alt = texts.photo;
  find(".channels").replaceChildren(
    ...channels.map((source, i) => {
      const figure = make("figure", ["red", "green", "blue"][i]);
      const picture = make("img", "");
      picture.src = source;
      picture.alt = "";
      figure.append(picture, make("figcaption", "", texts.lecture_colours[i]));
      return figure;
    }),
  );
  find(".window").replaceChildren(
    ...window.flat().map((point) => {
      const cell = make("span", "");
      cell.append(...point.map((value) => make("b", "", value)));
      cell.style.background = `rgb(${point})`;
      cell.style.color = isLight(point) ? "black" : "white";
      return cell;
    }),
  );
}

// Whether black is easier to read on a colour than white: its luminance as WCAG 2 defines it.
function isLight(point) {
  const [red, green, blue] = point.map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18;
}

function renderStages(stages, encoder) {
  const last = stages.at(-1)?.shape ?? [];
  const name = encoder.replace(/^./, (letter) => letter.toUpperCase()).replaceAll("_", "-"); // as papers write it
  tell("stages", { encoder: name, rows: last[0], columns: last[1], channels: last[2], regions: last[0] * last[1] });
  find(".stages").replaceChildren(
    ...stages.map(({ shape, channels }) => {
      const item = make("li", "");
      item.append(make("strong", "", shape.join(" × ")), makeSize(shape, last[2], stages[0].shape[0]));
      for (const { number, picture } of channels) {
        const image = make("img", "");
        image.src = picture;
        image.alt = image.title = fill(texts.lecture_channel, { number });
        item.append(image);
      }
      return item;
    }),
  );
}

// Height for rows, width for channels; the width by its root, or the first would be too thin to see.
function makeSize([rows, , channels], mostChannels, mostRows) {
  const size = make("span", "size");
  const box = make("i", "");
  box.style.height = `${(100 * rows) / mostRows}%`;
  box.style.width = `${100 * Math.sqrt(channels / mostChannels)}%`;
  size.append(box);
  return size;
}

const token = ([word, id]) => {
  const item = make("li", id === 1 ? "unknown" : "", word);
  item.append(make("small", "", id));
  return item;
};

function renderStrip(canvas, values, label) {
  canvas.width = values.length;
  canvas.height = 1;
  const strongest = Math.max(...values.map(Math.abs), 1e-6);
  const pixels = new ImageData(values.length, 1);
  values.forEach((value, i) => {
    const colour = value < 0 ? [37, 99, 235] : [234, 88, 12];
    pixels.data.set([...colour, 255 * Math.abs(value / strongest)], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.setAttribute("aria-label", label);
}

function renderHeads(heads) {
  find(".heads").replaceChildren(
    ...heads.map((map, i) => {
      const button = make("button", "head");
      const canvas = make("canvas", "");
      canvas.width = canvas.height = 112;
      canvas.style.backgroundImage = `url(${talk.pixels.photo})`;
      drawSmooth(canvas, map, { blur: 0.3, strength: 1.2 });
      button.append(canvas, make("span", "", fill(texts.lecture_head, { number: i + 1 })));
      button.setAttribute("aria-pressed", String(i === head));
      button.addEventListener("click", () => {
        head = i;
        renderStep();
      });
      return button;
    }),
  );
}

// Softmax does not change when the same number is added to all scores, so they are shown against the highest.
function renderScores(map) {
  const highest = Math.max(...map);
  const side = Math.round(Math.sqrt(map.length));
  const order = [...map.keys()].sort((a, b) => map[b] - map[a]);
  const row = (tag, cells) => {
    const line = make("tr", "");
    line.append(...cells.map((cell) => make(tag, "", cell)));
    return line;
  };
  const powers = map.map((share) => share / highest);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  find(".scores thead").replaceChildren(row("th", texts.lecture_columns));
  find(".scores tbody").replaceChildren(
    ...order.slice(0, 5).map((region) => {
      const score = Math.log(powers[region]);
      const place = `${Math.floor(region / side) + 1}, ${(region % side) + 1}`;
      return row("td", [place, number(score, 2), number(powers[region], 3), number(map[region], 3)]);
    }),
  );
  find(".scores tfoot").replaceChildren(
    row("td", [fill(texts.lecture_all, { regions: map.length }), "", number(sum(powers), 3), number(sum(map), 3)]),
  );
}

function renderStep() {
  const now = talk.steps[step];
  const before = talk.steps.slice(1, step + 1).map(({ read }) => read).join(" ");
  [...find(".steps").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === step)));
  tell("rnn", { words: before ? `“${before}”` : texts.lecture_nothing, hidden: talk.regions[1] });
  renderStrip(find(".state"), now.state, texts.lecture_state);
  head = Math.min(head, now.heads.length - 1);
  tell("attention", { regions: talk.regions[0], heads: now.heads.length });
  renderHeads(now.heads);
  renderScores(now.heads[head]);
  tell("next", { size: talk.vocabulary.size, word: now.said, percent: percent(now.next[0].probability) });
  renderStrip(find(".context"), now.context, texts.lecture_context);
  find(".next").replaceChildren(
    ...now.next.map(({ word, probability }) => {
      const item = make("li", word === now.said ? "said" : "", word);
      item.append(make("small", "", percent(probability)));
      item.style.setProperty("--probability", probability);
      return item;
    }),
  );
}

function render() {
  talk = JSON.parse(JSON.stringify(props.value || {}));
  find(".wait").hidden = Boolean(talk.steps);
  find(".lecture").hidden = !talk.steps;
  if (!talk.steps) return;
  renderPixels(talk.pixels);
  renderStages(talk.stages, talk.encoder);
  tell("words", { size: talk.vocabulary.size });
  find(".vocabulary").replaceChildren(...talk.vocabulary.words.map(token));
  step = Math.min(1, talk.steps.length - 1);
  find(".steps").setAttribute("aria-label", texts.lecture_steps);
  find(".steps").replaceChildren(
    ...talk.steps.map(({ said }, i) => {
      const button = make("button", "", said);
      button.addEventListener("click", () => {
        step = i;
        renderStep();
      });
      return button;
    }),
  );
  renderStep();
  tell("end", {});
  find(".sentence").textContent = ["<start>", ...talk.steps.map(({ said }) => said)].join(" ");
  tokenize();
}

async function tokenize() {
  find(".tokens").replaceChildren(...(await server.tokenize(find(".try").value)).map(token));
}

find(".try").addEventListener("input", tokenize);
watch("value", render);
render();
