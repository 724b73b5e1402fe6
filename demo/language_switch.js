// The switch between the page's languages, besides the browser's choice.

import { createElement } from "./dom.js";
import { chooseLanguage, language, texts } from "./i18n.js";

// Fill `element` with a button for each language.
export function mountLanguageSwitch({ element }) {
  const group = createElement("div", "language-switch");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", texts.page_language);
  group.append(
    ...Object.entries(texts.own_names).map(([code, name]) => {
      const button = createElement("button", "", name);
      button.lang = code;
      button.setAttribute("aria-pressed", String(code === language));
      button.addEventListener("click", () => chooseLanguage(code));
      return button;
    }),
  );
  element.replaceChildren(group);
}
