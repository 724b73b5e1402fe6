// Beam search and greedy search: modeling_captioner/onnx_search.py in JavaScript, with the same captions for the same
// logits.

// Find captions of one photo by beam search, or by greedy search if `num_beams` is 1.
//
// step: an async function of the last words (one id per beam) and the states, which returns [logits, states]: an array
//     with the logits of each beam, and the new states.
// states: the initial states of the decoder, each an array of rows with one row per beam, here a single one.
// prompt: the token ids that the caption begins with, including <start>.
// settings: the contents of generation_config.json; SUPPORTED in modeling_captioner/onnx_search.py lists those that have
//     an effect.
//
// Returns `num_beams` captions { ids, logProbability }, the best first: the ids after the prompt, and the natural
// log-probability.
export async function search(step, states, prompt, settings) {
  const beams = settings.num_beams || 1;
  const penalty = settings.length_penalty ?? 1;
  const longest = settings.max_new_tokens || (settings.max_length || 20) - prompt.length;
  const ends = [settings.eos_token_id].flat();
  for (const word of prompt.slice(0, -1)) [, states] = await step([word], states);
  let running = [{ logProbability: 0, ids: prompt }];
  let finished = [];
  for (let length = 1; length <= longest; length++) {
    let logits;
    [logits, states] = await step(running.map(({ ids }) => ids.at(-1)), states);
    const totals = running.map(({ logProbability, ids }, row) => {
      const scores = logSoftmax(logits[row]).map((score) => score + logProbability);
      for (const word of forbiddenWords(ids, length, ends, settings)) scores[word] = -Infinity;
      return scores;
    });
    // Twice the number of beams, so that enough captions continue if some of them end here.
    let found = largest(totals, 2 * beams).map(({ row, word, value }) => ({
      logProbability: value,
      ids: [...running[row].ids, word],
      row,
    }));
    for (const { logProbability, ids } of found.slice(0, beams)) {
      if (!ends.includes(ids.at(-1)) && length < longest) continue;
      finished.push({ score: logProbability / length ** penalty, logProbability, ids });
    }
    finished = finished.sort((a, b) => b.score - a.score).slice(0, beams);
    found = found.filter(({ ids }) => !ends.includes(ids.at(-1))).slice(0, beams);
    if (finished.length === beams && !canImprove(found[0].logProbability, finished.at(-1).score, length, longest, settings)) {
      break;
    }
    running = found;
    states = states.map((state) => found.map(({ row }) => state[row]));
  }
  return finished.map(({ ids, logProbability }) => ({ ids: ids.slice(prompt.length), logProbability }));
}

export function logSoftmax(logits) {
  const max = logits.reduce((a, b) => Math.max(a, b));
  const logSum = Math.log(logits.reduce((sum, value) => sum + Math.exp(value - max), 0));
  return Float64Array.from(logits, (value) => value - max - logSum);
}

// The `count` largest values of an array of rows, as { value, row, word }; of equal values, the first comes first.
export function largest(rows, count) {
  const found = [];
  rows.forEach((values, row) =>
    values.forEach((value, word) => {
      if (found.length === count && value <= found.at(-1).value) return;
      const place = found.findIndex((other) => other.value < value);
      found.splice(place < 0 ? found.length : place, 0, { value, row, word });
      if (found.length > count) found.pop();
    }));
  return found;
}

// The ids that must not follow `ids` as word number `length` of the caption.
function forbiddenWords(ids, length, ends, settings) {
  const words = [...(settings.suppress_tokens || [])];
  if (length <= (settings.min_new_tokens || 0)) words.push(...ends);
  words.push(...echoOf(ids, settings.conjunction_token_ids || []));
  const size = settings.no_repeat_ngram_size;
  if (!size) return words;
  const tail = ids.slice(ids.length - size + 1);
  for (let i = 0; i <= ids.length - size; i++) {
    if (tail.every((word, offset) => ids[i + offset] === word)) words.push(ids[i + size - 1]);
  }
  return words;
}

// The id with which `ids` would repeat after a conjunction what stands before it, as modeling_captioner/repetition.py.
function echoOf(ids, conjunctions) {
  const place = Math.max(0, ids.findLastIndex((id) => conjunctions.includes(id)));
  const [before, after] = [ids.slice(0, place), ids.slice(place + 1)];
  const start = place - 1 - after.length;
  const samePhrase = start >= 0 && after.every((id, offset) => ids[start + offset] === id);
  const sameWord = after.length < 2 && after.every((id) => before.includes(id));
  return samePhrase || sameWord ? before.slice(-1) : [];
}

// Whether an unfinished caption may still outscore a finished one, by the heuristic of `generate`.
function canImprove(bestRunning, worstFinished, length, longest, settings) {
  if ((settings.num_beams || 1) === 1 || settings.early_stopping === true) return false;
  const penalty = settings.length_penalty ?? 1;
  const finalLength = settings.early_stopping === "never" && penalty > 0 ? longest : length;
  return bestRunning / finalLength ** penalty > worstFinished;
}
