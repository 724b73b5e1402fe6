// Texts in the visitor's language; numbers as the browser's language writes them.

const translations = await (await fetch(new URL("texts.json", import.meta.url))).json();
const preferred = navigator.language.split("-")[0];
const numberFormats = {};

export const language = preferred in translations ? preferred : "en";
export const texts = translations[language];

export function formatNumber(value, digits = 0, style = "decimal") {
  // A formatter takes longer to create than to use.
  numberFormats[style + digits] ??= new Intl.NumberFormat(navigator.language, {
    style,
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return numberFormats[style + digits].format(value);
}

export function formatPercent(probability) {
  return formatNumber(probability, probability < 0.1 ? 1 : 0, "percent");
}

// Replace {name} by values.name; numbers are formatted.
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => (typeof values[name] === "number" ? formatNumber(values[name]) : values[name]));
}
