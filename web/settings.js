// What a caption is asked for with: the language and the generation settings, as controls in the page.

import { formatNumber, language } from "./i18n.js";
import { readState, rememberValues, restoreValues, writeState } from "./page_state.js";

const names = new Intl.DisplayNames([language], { type: "language" });

// Make the ranges and the select inside `element` the controls of captions in one of `languages`, of which there may be none.
// `onChange` is called when one has changed. The address of the page remembers them, under their names after `prefix`.
// Returns { options, ready }: `options()` are those for the engine, `ready(settings)` sets the ranges to the captioner's
// settings.
export function addSettings(element, languages, onChange, prefix = "") {
  const ranges = [...element.querySelectorAll("input[type=range]")];
  const select = element.querySelector("select");
  const spoken = languages.includes(language) ? language : languages[0];
  let defaults; // the captioner's settings, once they are known
  select.replaceChildren(...languages.map((code) => new Option(names.of(code), code)));
  select.value = [readState(`${prefix}captions`), spoken].find((code) => languages.includes(code));
  select.parentElement.hidden = languages.length < 2;

  const initial = ({ name }) => ({ ...defaults, ...defaults.languages?.[select.value] })[name] || 1; // in this language
  const specs = () => ranges.map((range) => [prefix + range.name, initial(range), [Number(range.min), Number(range.max)]]);

  function set(range, value) {
    range.value = value;
    show(range);
  }

  function show(range) {
    range.parentElement.querySelector("output").textContent = formatNumber(Number(range.value));
  }

  function remember() {
    if (defaults) rememberValues(specs(), ranges.map(({ value }) => Number(value)));
    writeState({ [`${prefix}captions`]: select.value === spoken ? null : select.value });
  }

  select.addEventListener("change", () => defaults && ranges.forEach((range) => set(range, initial(range))));
  for (const range of ranges) range.addEventListener("input", () => show(range));
  for (const control of [...ranges, select]) {
    control.addEventListener("change", remember);
    control.addEventListener("change", onChange);
  }

  return {
    options() {
      const enabled = ranges.filter(({ disabled }) => !disabled); // the others have no value yet
      const settings = Object.fromEntries(enabled.map(({ name, value }) => [name, Number(value)]));
      return select.value ? { ...settings, language: select.value } : settings;
    },
    ready(settings) {
      defaults = settings;
      const restored = restoreValues(specs());
      ranges.forEach((range, i) => {
        range.disabled = false;
        set(range, typeof restored[i] === "number" ? restored[i] : initial(range));
      });
      if (restored.some((value) => typeof value === "number")) onChange();
    },
  };
}
