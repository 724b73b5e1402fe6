// Joins still WebP pictures of one size into an animated one. Browsers encode stills, but no film.
// The format: https://developers.google.com/speed/webp/docs/riff_container

const ANIMATION = 0x02; // flag of a VP8X chunk
const REPLACE = 0x02; // flag of a frame: do not blend it with the frame before

const asciiBytes = (text) => [...text].map((letter) => letter.charCodeAt(0));
const littleEndian = (value, count) => Array.from({ length: count }, (_, i) => (value >> (8 * i)) & 255);

function riffChunk(name, parts) {
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  const chunk = new Uint8Array(8 + size + (size % 2)); // chunks are padded to an even size
  let offset = 0;
  for (const part of [asciiBytes(name), littleEndian(size, 4), ...parts]) {
    chunk.set(part, offset);
    offset += part.length;
  }
  return chunk;
}

// The chunk with the compressed pixels of a still WebP picture, a Uint8Array, including its header.
function pixelChunk(webp) {
  const view = new DataView(webp.buffer);
  for (let offset = 12; offset < webp.length; ) {
    const size = 8 + view.getUint32(offset + 4, true);
    const name = String.fromCharCode(...webp.subarray(offset, offset + 4));
    if (["VP8 ", "VP8L"].includes(name)) return webp.subarray(offset, offset + size + (size % 2));
    offset += size + (size % 2);
  }
  throw new Error("This WebP picture has no pixels.");
}

// `pictures` are Uint8Arrays, `durations` their times in milliseconds. Returns a Uint8Array; the film repeats forever.
export function animateWebp(pictures, durations, width, height) {
  const size = [littleEndian(width - 1, 3), littleEndian(height - 1, 3)];
  const frames = pictures.map((picture, i) =>
    riffChunk("ANMF", [[0, 0, 0, 0, 0, 0], ...size, littleEndian(durations[i], 3), [REPLACE], pixelChunk(picture)]));
  const header = riffChunk("VP8X", [[ANIMATION, 0, 0, 0], ...size]);
  const animation = riffChunk("ANIM", [[255, 255, 255, 255], littleEndian(0, 2)]); // white background, endless
  return riffChunk("RIFF", [asciiBytes("WEBP"), header, animation, ...frames]);
}
