// The three moves of transfer learning, in step 2: a visitor freezes more or fewer blocks of the served network.

import { createElement } from "./dom.js";
import { fill, formatNumber, formatPercent, texts } from "./i18n.js";

// `find` looks for an element of how_it_works.html, `explain` fills a text of it in. Returns the function that shows the
// part "transfer" of a trace, given the number of channels of the last stage.
export function addTransferLearning(find, explain) {
  let transfer;

  function render(part, channels) {
    transfer = part;
    const { blocks, classifier, layers, trained_from: trainedFrom } = transfer;
    explain("freeze", { parameters: countParameters(blocks), blocks: blocks.length });
    explain("classifier", { channels, ...classifier });
    explain("layers", { parameters: countParameters(layers) });
    const key = trainedFrom === "all" ? "how_trained_all" : "how_trained_from";
    find(".trained-text").textContent = trainedFrom ? fill(texts[key], { block: trainedFrom }) : "";
    find(".blocks").replaceChildren(...createBlocks(blocks));
    find(".layers").replaceChildren(...createBlocks(layers));
    const slider = find(".frozen-blocks");
    slider.max = slider.value = blocks.length;
    renderFrozen();
  }

  // The blocks from the first that is not frozen on learn, and so do the new layers.
  function renderFrozen() {
    const { blocks, layers } = transfer;
    const frozen = Number(find(".frozen-blocks").value);
    [...find(".blocks").children].forEach((item, i) => item.classList.toggle("frozen", i < frozen));
    const learning = countParameters(layers) + countParameters(blocks.slice(frozen));
    const total = countParameters(layers) + countParameters(blocks);
    const values = { frozen, blocks: blocks.length, learning, total, percent: formatPercent(learning / total) };
    find(".frozen-count").textContent = fill(texts.how_frozen_count, values);
  }

  find(".frozen-blocks").addEventListener("input", renderFrozen);
  return render;
}

function createBlocks(blocks) {
  return blocks.map(({ name, parameters }) => {
    const item = createElement("li", "", name);
    item.append(createElement("small", "", formatNumber(parameters)));
    return item;
  });
}

function countParameters(blocks) {
  return blocks.reduce((sum, { parameters }) => sum + parameters, 0);
}
