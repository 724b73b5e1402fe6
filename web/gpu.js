// Encodes photos on the GPU where that is faster. The steps of the decoder are too small for it.

import { loadRuntime } from "./runtime.js";

// A session on the GPU for the captioner's encoder; none if there is no GPU, or only one that the CPU imitates.
export async function createGpuSession({ files, encoderPath }) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter || adapter.info.isFallbackAdapter) return null;
  const [ort, encoder] = await Promise.all([loadRuntime("gpu", files), files.get(encoderPath)]);
  return ort.InferenceSession.create(new Uint8Array(encoder), { executionProviders: ["webgpu"] });
}

// Let the captioner encode on the GPU from now on if that is faster than on the CPU, as tried with `pixels`.
export async function useGpuIfFaster(captioner, pixels) {
  const gpu = await createGpuSession(captioner);
  if (!gpu) return;
  const onCpu = await encodingTime(captioner, pixels);
  captioner.gpu = gpu;
  await encodingTime(captioner, pixels); // compiles the shaders
  if ((await encodingTime(captioner, pixels)) > onCpu) captioner.gpu = null;
}

async function encodingTime(captioner, pixels) {
  const start = performance.now();
  await captioner.encode(pixels);
  return performance.now() - start;
}
