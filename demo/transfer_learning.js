// The three moves of transfer learning: a visitor freezes more or fewer blocks of the served network.

import { createElement } from "./dom.js";
import { fill, formatNumber, formatPercent, texts } from "./i18n.js";

// The moves as nodes. `transfer` is that part of a trace, `channels` are the features of each region.
export function createTransferLearning({ blocks, classifier, layers, trained_from: trainedFrom }, channels) {
  const [blockList, layerList] = [createBlocks("blocks", blocks), createBlocks("layers", layers)];
  const slider = createElement("input", "frozen-blocks");
  Object.assign(slider, { type: "range", min: 0, max: blocks.length, value: blocks.length });
  const label = createElement("label", "");
  label.append(createElement("span", "", texts.how_frozen_blocks), slider);
  const count = createElement("output", "frozen-count");
  count.setAttribute("aria-live", "polite");

  // The blocks from the first that is not frozen on learn, and so do the new layers.
  function renderFrozen() {
    const frozen = Number(slider.value);
    [...blockList.children].forEach((item, i) => item.classList.toggle("frozen", i < frozen));
    const learning = countParameters(layers) + countParameters(blocks.slice(frozen));
    const total = countParameters(layers) + countParameters(blocks);
    const values = { frozen, blocks: blocks.length, learning, total, percent: formatPercent(learning / total) };
    count.textContent = fill(texts.how_frozen_count, values);
  }

  slider.addEventListener("input", renderFrozen);
  renderFrozen();
  const parameters = countParameters(blocks);
  const trained = trainedFrom === "all" ? texts.how_trained_all : texts.how_trained_from;
  const moves = createElement("ol", "moves");
  moves.append(
    createMove("freeze", { parameters, blocks: blocks.length }, [
      createElement("p", "trained-text", trainedFrom ? fill(trained, { block: trainedFrom }) : ""),
      label,
      count,
      blockList,
    ]),
    createMove("classifier", { channels, ...classifier }, []),
    createMove("layers", { parameters: countParameters(layers) }, [layerList]),
  );
  return [moves];
}

function createMove(name, values, nodes) {
  const move = createElement("li", "");
  const text = createElement("p", `${name}-text`, fill(texts[`how_${name}_text`], values));
  move.append(createElement("h3", "", texts[`how_${name}`]), text, ...nodes);
  return move;
}

function createBlocks(className, blocks) {
  const list = createElement("ol", className);
  list.append(
    ...blocks.map(({ name, parameters }) => {
      const item = createElement("li", "", name);
      item.append(createElement("small", "", formatNumber(parameters)));
      return item;
    }),
  );
  return list;
}

function countParameters(blocks) {
  return blocks.reduce((sum, { parameters }) => sum + parameters, 0);
}
