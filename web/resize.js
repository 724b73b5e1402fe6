// Resizing as Pillow's `Image.resize` with `Resampling.BILINEAR` does it, to the last bit: the model sees the same pixels
// in a browser as in Python. Browsers resize in ways of their own, which change one caption in twenty.

const PRECISION = 22; // bits after the binary point of Pillow's fixed-point weights

// Resize the pixels (height, width, channels), a Uint8Array or Uint8ClampedArray. Returns a Uint8Array
// (newHeight, newWidth, channels).
export function resize(pixels, width, height, channels, newWidth, newHeight) {
  const narrow = width === newWidth ? pixels : resizeRows(pixels, width, height, channels, newWidth);
  return height === newHeight ? narrow : resizeColumns(narrow, height, newWidth * channels, newHeight);
}

function resizeRows(pixels, width, height, channels, newWidth) {
  const weights = filterWeights(width, newWidth);
  const result = new Uint8Array(height * newWidth * channels);
  let target = 0;
  for (let row = 0; row < height; row++) {
    for (const { first, values } of weights) {
      const source = (row * width + first) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION - 1);
        for (let i = 0; i < values.length; i++) sum += pixels[source + i * channels + channel] * values[i];
        result[target++] = sum >> PRECISION;
      }
    }
  }
  return result;
}

function resizeColumns(pixels, height, rowLength, newHeight) {
  const result = new Uint8Array(newHeight * rowLength);
  filterWeights(height, newHeight).forEach(({ first, values }, row) => {
    for (let column = 0; column < rowLength; column++) {
      let sum = 1 << (PRECISION - 1);
      for (let i = 0; i < values.length; i++) sum += pixels[(first + i) * rowLength + column] * values[i];
      result[row * rowLength + column] = sum >> PRECISION;
    }
  });
  return result;
}

// For each pixel of the result, the first pixel of the source that it is a mean of, and the weights of that and the next
// pixels. When shrinking, the triangle filter is stretched, so that it covers all pixels between two of the result.
function filterWeights(size, newSize) {
  const scale = size / newSize;
  const support = Math.max(1, scale);
  return Array.from({ length: newSize }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(size, Math.trunc(center + support + 0.5));
    const values = Array.from({ length: last - first }, (_, offset) =>
      Math.max(0, 1 - Math.abs((first + offset - center + 0.5) * (1 / support))));
    const sum = values.reduce((a, b) => a + b, 0);
    return { first, values: Int32Array.from(values, (value) => Math.trunc(0.5 + (value / sum) * (1 << PRECISION))) };
  });
}
