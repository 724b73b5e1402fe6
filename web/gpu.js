// Encodes photos on the GPU where that is faster. The steps of the decoder are too small for it.

const RUNTIME = new URL("onnxruntime/", self.location).href;

// A session on the GPU for the ONNX file at `url`; none if there is no GPU, or only one that the CPU imitates.
export async function createGpuSession(url) {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter || adapter.info.isFallbackAdapter) return null;
  const ort = await import("./onnxruntime/ort.webgpu.min.mjs"); // a build of its own, twice as large
  ort.env.wasm.wasmPaths = RUNTIME;
  ort.env.wasm.numThreads = 1;
  return ort.InferenceSession.create(url, { executionProviders: ["webgpu"] });
}

// Let the captioner encode on the GPU from now on if that is faster than on the CPU, as tried with `pixels`.
export async function useGpuIfFaster(captioner, pixels) {
  const gpu = await createGpuSession(captioner.encoderUrl);
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
