// onnxruntime-web, from its files as publishing/static_site.py stores them.

const BUILDS = {
  cpu: ["ort.wasm.min.js", "ort-wasm-simd-threaded"],
  gpu: ["ort.webgpu.min.js", "ort-wasm-simd-threaded.asyncify"], // twice as large
};

// The module onnxruntime-web, ready to create sessions. `files` is the Downloader of the site.
export async function loadRuntime(build, files) {
  const [main, backend] = BUILDS[build];
  const url = (name) => new URL(`onnxruntime/${name}`, files.base).href;
  const [ort, binary] = await Promise.all([import(url(main)), files.get(`onnxruntime/${backend}.wasm.gzip`)]);
  ort.env.wasm.wasmPaths = { mjs: url(`${backend}.js`) };
  ort.env.wasm.wasmBinary = binary;
  // Without cross-origin isolation there is no memory that threads could share.
  const threads = build === "cpu" && self.crossOriginIsolated;
  ort.env.wasm.numThreads = threads ? Math.min(4, navigator.hardwareConcurrency) : 1;
  return ort;
}
