// What a caption is asked for with: the language and the generation settings, as controls in the page.

import { formatNumber, language } from "./i18n.js";

const names = new Intl.DisplayNames([language], { type: "language" });

// Make the ranges and the select inside `element` the controls of captions in one of `languages`, of which there may be none.
// `onChange` is called when a visitor changes one. Returns { options, ready }: `options()` are those for the engine,
// `ready(settings)` sets the ranges to the captioner's settings.
export function addSettings(element, languages, onChange) {
  const ranges = [...element.querySelectorAll("input[type=range]")];
  const select = element.querySelector("select");
  let defaults; // the captioner's settings, once they are known
  select.replaceChildren(...languages.map((code) => new Option(names.of(code), code)));
  if (languages.includes(language)) select.value = language;
  select.parentElement.hidden = languages.length < 2;

  function show(range) {
    range.parentElement.querySelector("output").textContent = formatNumber(Number(range.value));
  }

  // Those of the chosen language.
  function reset() {
    const settings = { ...defaults, ...defaults.languages?.[select.value] };
    for (const range of ranges) {
      range.value = settings[range.name] || 1;
      show(range);
    }
  }

  select.addEventListener("change", () => defaults && reset());
  for (const range of ranges) range.addEventListener("input", () => show(range));
  for (const control of [...ranges, select]) control.addEventListener("change", onChange);

  return {
    options() {
      const enabled = ranges.filter(({ disabled }) => !disabled); // the others have no value yet
      const settings = Object.fromEntries(enabled.map(({ name, value }) => [name, Number(value)]));
      return select.value ? { ...settings, language: select.value } : settings;
    },
    ready(settings) {
      defaults = settings;
      for (const range of ranges) range.disabled = false;
      reset();
    },
  };
}
