// Words to ids and back, as a captioner's tokenizer.json describes it; train/data/vocabulary.py makes such tokenizers.

// As WORD in train/words.py: a character of a script without spaces, or letters and digits with apostrophes or hyphens
// between them.
const LETTER = String.raw`[\p{L}\p{M}\p{N}\p{Pc}]`;
const UNSPACED = String.raw`[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}ー]`;
const SPACED = `(?:(?!${UNSPACED})${LETTER})+`;
const WORD = new RegExp(String.raw`(?=${LETTER})${UNSPACED}\p{M}*|${SPACED}(?:['\u2019\u200c\u200d\-]${SPACED})*`, "gu");

export class Tokenizer {
  #ids;
  #words;
  #normalize;
  #extraSpace;

  // `json`: the content of tokenizer.json.
  constructor({ model, normalizer, decoder }) {
    this.#ids = new Map(Object.entries(model.vocab));
    this.#words = new Map([...this.#ids].map(([word, id]) => [id, word]));
    this.unknown = this.#ids.get(model.unk_token);
    this.#normalize = createNormalizer(normalizer);
    // Which spaces between words are none, such as between Chinese characters.
    this.#extraSpace = decoder && toRegExp(decoder.decoders.at(-1).pattern.Regex);
  }

  // The ids of the words of a text, without a first token.
  encode(text) {
    const words = this.#normalize(text).match(WORD) ?? [];
    return words.map((word) => this.#ids.get(word) ?? this.unknown);
  }

  // The vocabulary's size and its first `count` words with their ids, how many of them are special, and the unknown one's id.
  describe(count) {
    const words = [...this.#ids].sort(([, a], [, b]) => a - b);
    const special = words.slice(0, 64).filter(([word]) => word.startsWith("<")).length;
    return { size: words.length, words: words.slice(0, count), special, unknown: this.unknown };
  }

  word(id) {
    return this.#words.get(id);
  }

  decode(ids) {
    const text = ids.map((id) => this.#words.get(id)).join(" ");
    return this.#extraSpace ? text.replace(this.#extraSpace, "") : text;
  }
}

const NORMALIZERS = {
  Sequence: ({ normalizers }) => {
    const steps = normalizers.map(createNormalizer);
    return (text) => steps.reduce((result, step) => step(result), text);
  },
  NFC: () => (text) => text.normalize("NFC"),
  NFD: () => (text) => text.normalize("NFD"),
  NFKC: () => (text) => text.normalize("NFKC"),
  NFKD: () => (text) => text.normalize("NFKD"),
  Lowercase: () => (text) => text.toLowerCase(),
  Replace: ({ pattern: { Regex, String: string }, content }) => {
    const pattern = Regex === undefined ? string : toRegExp(Regex);
    return (text) => text.replaceAll(pattern, () => content); // a function, because "$1" means nothing special
  },
};

function createNormalizer(normalizer) {
  if (!normalizer) return (text) => text;
  const create = NORMALIZERS[normalizer.type];
  if (!create) throw new Error(`tokenizer.json has a normalizer of the kind ${normalizer.type}, which is unknown here`);
  return create(normalizer);
}

// A pattern as the library tokenizers writes it (Oniguruma) in JavaScript, where \w and \b know ASCII alone.
function toRegExp(pattern) {
  const letter = "\\p{L}\\p{M}\\p{N}\\p{Pc}";
  let depth = 0; // of brackets
  const translated = pattern.replace(/\\p\{(\w+)\}|\\.|[[\]]/gsu, (token, property) => {
    if (token === "[") depth += 1;
    if (token === "]") depth -= 1;
    if (property?.length > 2) return `\\p{Script=${property}}`;
    if (token === "\\w") return depth ? letter : `[${letter}]`;
    if (token === "\\b") return `(?:(?<=[${letter}])(?![${letter}])|(?<![${letter}])(?=[${letter}]))`;
    return { "\\A": "^", "\\z": "$" }[token] ?? token;
  });
  return new RegExp(translated, "gu");
}
