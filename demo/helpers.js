// Texts in the visitor's language, and new nodes.

const language = navigator.language.split("-")[0] in props.texts ? navigator.language.split("-")[0] : "en";
const texts = props.texts[language];

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function percent(probability) {
  return probability.toLocaleString(language, { style: "percent", maximumFractionDigits: probability < 0.1 ? 1 : 0 });
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  if (tag === "button") node.type = "button";
  return node;
}
