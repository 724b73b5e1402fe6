// Helpers for the component's elements.

const find = (selector) => element.querySelector(selector);

function createElement(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  if (tag === "button") node.type = "button";
  return node;
}

for (const node of element.querySelectorAll("[data-text]")) node.textContent = texts[node.dataset.text];
