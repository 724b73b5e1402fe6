// Shows the intermediate results of demo/how_it_works_tab.py for the visitor's photo.

let trace = {};
let step = 0; // index of the selected word
let head = 0; // index of the selected attention head

function explain(name, values) {
  find(`.${name}-text`).textContent = fill(texts[`how_${name}_text`], values);
}

function renderPixels({ original_size: [width, height], size, photo, channels, patch }) {
  explain("pixels", { width, height, size });
  find(".resized").src = photo;
  find(".resized").alt = texts.photo;
  find(".channels").replaceChildren(
    ...channels.map((source, i) => {
      const figure = createElement("figure", ["red", "green", "blue"][i]);
      const image = createElement("img", "");
      image.src = source;
      image.alt = "";
      figure.append(image, createElement("figcaption", "", texts.how_colours[i]));
      return figure;
    }),
  );
  find(".patch").replaceChildren(
    ...patch.flat().map((pixel) => {
      const cell = createElement("span", "");
      cell.append(...pixel.map((value) => createElement("b", "", value)));
      cell.style.background = `rgb(${pixel})`;
      cell.style.color = isLight(pixel) ? "black" : "white";
      return cell;
    }),
  );
}

// Whether black text has more contrast than white text, by the relative luminance of WCAG 2.
function isLight(pixel) {
  const [red, green, blue] = pixel.map((value) => ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18;
}

function renderStages(stages, encoder) {
  const last = stages.at(-1)?.shape ?? [];
  const name = encoder.replace(/^./, (letter) => letter.toUpperCase()).replaceAll("_", "-"); // inception_v3 -> Inception-v3
  explain("stages", { encoder: name, channels: last[2], regions: last[0] * last[1] });
  find(".stages").replaceChildren(
    ...stages.map(({ shape, channels }) => {
      const item = createElement("li", "");
      const dimensions = shape.map((size) => formatNumber(size)).join(" × ");
      item.append(createElement("strong", "", dimensions), createSizeBox(shape, last[2], stages[0].shape[0]));
      for (const { index, image: source } of channels) {
        const image = createElement("img", "");
        image.src = source;
        image.alt = image.title = fill(texts.how_channel, { index: String(index) });
        item.append(image);
      }
      return item;
    }),
  );
}

// Height: rows. Width: square root of the channels, because the first stage would otherwise be too thin to see.
function createSizeBox([rows, , channels], maxChannels, maxRows) {
  const size = createElement("span", "size");
  const box = createElement("i", "");
  box.style.height = `${(100 * rows) / maxRows}%`;
  box.style.width = `${100 * Math.sqrt(channels / maxChannels)}%`;
  size.append(box);
  return size;
}

const createToken = ([word, id]) => {
  const item = createElement("li", id === 1 ? "unknown" : "", word);
  item.append(createElement("small", "", id));
  return item;
};

function renderStrip(canvas, values, label) {
  canvas.width = values.length;
  canvas.height = 1;
  const largest = Math.max(...values.map(Math.abs), 1e-6);
  const pixels = new ImageData(values.length, 1);
  values.forEach((value, i) => {
    const colour = value < 0 ? [37, 99, 235] : [234, 88, 12];
    pixels.data.set([...colour, 255 * Math.abs(value / largest)], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.setAttribute("aria-label", label);
}

function renderHeads(heads) {
  find(".heads").replaceChildren(
    ...heads.map((map, i) => {
      const button = createElement("button", "head");
      const canvas = createElement("canvas", "");
      canvas.width = canvas.height = 112;
      canvas.style.backgroundImage = `url(${trace.pixels.photo})`;
      drawSmoothMap(canvas, map, { blur: 0.3, strength: 1.2 });
      button.append(canvas, createElement("span", "", fill(texts.how_head, { index: i + 1 })));
      button.setAttribute("aria-pressed", String(i === head));
      button.addEventListener("click", () => {
        head = i;
        renderStep();
      });
      return button;
    }),
  );
}

// Softmax is invariant to adding a constant to all scores, so scores are shown relative to the highest.
function renderScores(map) {
  const maximum = Math.max(...map);
  const side = Math.round(Math.sqrt(map.length));
  const order = [...map.keys()].sort((a, b) => map[b] - map[a]);
  const row = (tag, cells) => {
    const line = createElement("tr", "");
    line.append(...cells.map((cell) => createElement(tag, "", cell)));
    return line;
  };
  const exponentials = map.map((weight) => weight / maximum);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  find(".scores thead").replaceChildren(row("th", texts.how_columns));
  find(".scores tbody").replaceChildren(
    ...order.slice(0, 5).map((region) => {
      const score = Math.log(exponentials[region]);
      const position = `${Math.floor(region / side) + 1}, ${(region % side) + 1}`;
      const weights = [exponentials[region], map[region]].map((value) => formatNumber(value, 3));
      return row("td", [position, formatNumber(score, 2), ...weights]);
    }),
  );
  const sums = [sum(exponentials), sum(map)].map((value) => formatNumber(value, 3));
  find(".scores tfoot").replaceChildren(row("td", [fill(texts.how_all, { regions: map.length }), "", ...sums]));
}

function renderStep() {
  const current = trace.steps[step];
  const prefix = trace.steps.slice(1, step + 1).map(({ input }) => input).join(" ");
  [...find(".steps").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === step)));
  explain("rnn", { words: prefix ? `“${prefix}”` : texts.how_start_only, hidden: trace.hidden_size });
  renderStrip(find(".state"), current.state, texts.how_state);
  head = Math.min(head, current.heads.length - 1);
  explain("attention", { regions: trace.regions, heads: current.heads.length });
  renderHeads(current.heads);
  renderScores(current.heads[head]);
  const percent = formatPercent(current.candidates[0].probability);
  explain("next", { size: trace.vocabulary.size, word: current.output, percent });
  renderStrip(find(".context"), current.context, texts.how_context);
  find(".candidates").replaceChildren(
    ...current.candidates.map(({ word, probability }) => {
      const item = createElement("li", word === current.output ? "chosen" : "", word);
      item.append(createElement("small", "", formatPercent(probability)));
      item.style.setProperty("--probability", probability);
      return item;
    }),
  );
}

function render() {
  trace = JSON.parse(JSON.stringify(props.value || {}));
  find(".loading").hidden = Boolean(trace.steps);
  find(".how-it-works").hidden = !trace.steps;
  if (!trace.steps) return;
  renderPixels(trace.pixels);
  renderStages(trace.stages, trace.encoder);
  renderTransfer(trace.transfer, trace.stages.at(-1)?.shape[2]);
  explain("vocabulary", { size: trace.vocabulary.size });
  find(".vocabulary").replaceChildren(...trace.vocabulary.words.map(createToken));
  step = Math.min(1, trace.steps.length - 1);
  find(".steps").setAttribute("aria-label", texts.how_steps);
  find(".steps").replaceChildren(
    ...trace.steps.map(({ output }, i) => {
      const button = createElement("button", "", output);
      button.addEventListener("click", () => {
        step = i;
        renderStep();
      });
      return button;
    }),
  );
  renderStep();
  explain("end", {});
  find(".full-caption").textContent = ["<start>", ...trace.steps.map(({ output }) => output)].join(" ");
  tokenize();
}

async function tokenize() {
  find(".tokens").replaceChildren(...(await server.tokenize(find(".tokenizer-input").value)).map(createToken));
}

find(".tokenizer-input").addEventListener("input", tokenize);
watch("value", render);
render();
