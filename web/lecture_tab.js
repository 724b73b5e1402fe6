// The lecture: the tour of demo/how_it_works.js on the photo and caption of the first tab.

import { mountHowItWorks } from "./how_it_works.js";
import { fill, texts } from "./i18n.js";

export function addLectureTab(element, engine, options) {
  const watchers = {};
  const props = { value: null };
  const server = { tokenize: (text) => engine.request("tokenize", { text: text.slice(0, 200) }) };
  let shown = null; // the answer whose tour is shown
  mountHowItWorks({ element, props, server, watch: (name, callback) => (watchers[name] = callback) });

  return {
    // Show the tour of what a PhotoPanel shows.
    async open(panel) {
      const { answer } = panel.viewer;
      if (answer === shown || !panel.photo || answer.pending) return;
      shown = answer;
      try {
        props.value = await panel.request("trace", { caption: answer.caption, options: options() });
        watchers.value();
      } catch (error) {
        shown = null;
        element.querySelector(".loading").textContent = fill(texts.photo_failed, { name: panel.photo.name, reason: error.message });
      }
    },
  };
}
