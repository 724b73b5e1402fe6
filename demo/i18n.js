// Texts in the visitor's language; numbers as that language, or the browser's where none was chosen, writes them.

const COOKIE = "language"; // read by demo/i18n.py, too, for what the server says
const translations = await (await fetch(new URL("texts.json", import.meta.url))).json();
const asked = new URLSearchParams(location.search).get("lang");
if (asked in translations) remember(asked);
const chosen = document.cookie.match(/(?:^|; )language=(\w+)/)?.[1];
const preferred = navigator.language.split("-")[0];
const numberFormats = {};

export const language = [asked, chosen, preferred].find((each) => each in translations) ?? "en";
export const texts = translations[language];
// Also a language that the page does not speak, such as German, unless another one was chosen.
const numberLocale = (asked ?? chosen) in translations && language !== preferred ? language : navigator.language;

function remember(code) {
  document.cookie = `${COOKIE}=${code}; path=/; max-age=31536000; SameSite=Lax`;
}

// Show the page in another language from now on.
export function chooseLanguage(code) {
  remember(code);
  const url = new URL(location);
  url.searchParams.delete("lang");
  if (url.href === location.href) location.reload();
  else location.replace(url);
}

export function formatNumber(value, digits = 0, style = "decimal") {
  // A formatter takes longer to create than to use.
  numberFormats[style + digits] ??= new Intl.NumberFormat(numberLocale, {
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
