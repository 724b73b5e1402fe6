// How sure the captioner is of a caption: modeling_captioner/confidence.py in JavaScript.

// The probability that every content word of a caption is right; undefined for a captioner that is not calibrated.
// probabilities: of each word of the caption and of its end. numbers: `confidence` in config.json.
export function confidenceOf(probabilities, numbers, language) {
  if (!numbers) return undefined;
  const { intercept, total, lowest, length } = numbers.languages?.[language] ?? numbers;
  const scores = probabilities.map(Math.log);
  const sum = scores.reduce((a, b) => a + b, 0);
  return 1 / (1 + Math.exp(-(intercept + total * sum + lowest * Math.min(...scores) + length * scores.length)));
}
