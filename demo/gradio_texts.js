// Translates what Gradio itself writes, which is not translated into Vietnamese, and names what it leaves without a name.

import { language, texts } from "./i18n.js";

const ATTRIBUTES = ["aria-label", "title", "placeholder"];

// Watch the page, because Gradio renders its parts again on every change. `wrong` lists the names of the examples that get
// a wrong caption.
export function translateGradio(wrong) {
  document.documentElement.lang = language;
  const page = document.querySelector(".gradio-container");
  const patterns = Object.entries(texts.gradio ?? {}).map(([pattern, text]) => [new RegExp(`^\\s*${pattern}\\s*$`), text]);
  const translate = (text) => {
    const [pattern, translation] = patterns.find(([each]) => each.test(text)) ?? [];
    return pattern ? text.replace(pattern, translation) : text;
  };
  const update = () => {
    labelExamples(page, wrong);
    if (patterns.length) translateAll(page, translate);
  };
  new MutationObserver(update).observe(page, {
    childList: true,
    subtree: true,
    characterData: true,
    attributeFilter: ["aria-label"],
  });
  update();
}

// Gradio renders the example images as buttons without an accessible name.
function labelExamples(page, wrong) {
  for (const button of page.querySelectorAll(".gallery-item:not([data-example])")) {
    const image = button.querySelector("img");
    if (!image) continue;
    const name = image.src.split("/").pop().replace(/\.\w+$/, "");
    button.dataset.example = name;
    button.setAttribute("aria-label", texts.example_names[name] ?? name);
    if (!wrong.includes(name)) continue;
    button.setAttribute("aria-label", `${texts.example_names[name] ?? name}. ${texts.example_wrong}`);
    button.title = texts.example_wrong;
    button.dataset.mark = texts.example_wrong_short; // shown by page.css
  }
}

function translateAll(page, translate) {
  const walker = document.createTreeWalker(page, NodeFilter.SHOW_TEXT, (node) =>
    node.parentElement.closest(".attention-viewer, #how_it_works, textarea, script, style")
      ? NodeFilter.FILTER_REJECT
      : NodeFilter.FILTER_ACCEPT);
  while (walker.nextNode()) {
    const { data } = walker.currentNode;
    const translated = translate(data);
    if (translated !== data) walker.currentNode.data = translated;
  }
  for (const name of ATTRIBUTES) {
    for (const node of page.querySelectorAll(`[${name}]`)) {
      const translated = translate(node.getAttribute(name));
      if (translated !== node.getAttribute(name)) node.setAttribute(name, translated);
    }
  }
}
