// Keeps all files of the site in the browser, so that it works offline after the first visit, and isolates the page, which
// a plain file server does not, so that the model can use several threads.

importScripts("files.js"); // FILES: {path: fingerprint of its content}, written by publishing/static_site.py

const CACHE = "captioner";
const LARGE = /^(model|onnxruntime)\//; // kept when the page loads them, which it does on every first visit
const scope = new URL("./", self.location).href;
const keyOf = (path) => `${scope}${path}?${FILES[path]}`;
// See https://developer.mozilla.org/docs/Web/API/Window/crossOriginIsolated
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};
const WORKER_POLICY = "default-src 'self' 'wasm-unsafe-eval'"; // a worker has a policy of its own; see index.html

self.addEventListener("install", (event) => {
  event.waitUntil(Promise.all(Object.keys(FILES).filter((path) => !LARGE.test(path)).map((path) => get(path, event))));
});

self.addEventListener("activate", (event) => event.waitUntil(removeOldFiles().then(() => self.clients.claim())));

self.addEventListener("fetch", (event) => {
  const url = event.request.url.split(/[?#]/)[0];
  const path = url.slice(scope.length) || "index.html";
  if (!url.startsWith(scope) || !(path in FILES)) return;
  event.respondWith(get(path, event).then((response) => withHeaders(response, event.request.destination)));
});

// The response for a file, from the cache or from the server.
async function get(path, event) {
  const cache = await caches.open(CACHE);
  const found = await cache.match(keyOf(path));
  if (found) return found;
  const response = await fetch(scope + path, { cache: "no-cache" }); // asks the server whether an older copy is still good
  // A browser without enough space shows the page all the same.
  if (response.ok) event.waitUntil(cache.put(keyOf(path), response.clone()).catch(console.warn));
  return response;
}

async function removeOldFiles() {
  const cache = await caches.open(CACHE);
  const current = new Set(Object.keys(FILES).map(keyOf));
  for (const { url } of await cache.keys()) if (!current.has(url)) await cache.delete(url);
}

function withHeaders(response, destination) {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  if (destination === "worker") headers.set("Content-Security-Policy", WORKER_POLICY);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
