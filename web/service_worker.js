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

// Fails if a file is not the one that was published: the browser then keeps the version that it has, and tries again.
self.addEventListener("install", (event) => event.waitUntil(install()));

async function install() {
  const cache = await caches.open(CACHE);
  const paths = Object.keys(FILES).filter((path) => !LARGE.test(path));
  await Promise.all(
    paths.map(async (path) => {
      if (await cache.match(keyOf(path))) return;
      // The page has loaded most files just now: browsers then only ask whether they have changed. Another version of a
      // file may be in between, so that the published one has to be asked for by its own address.
      await download(cache, path, scope + path).catch(() => download(cache, path, keyOf(path)));
    }),
  );
}

async function download(cache, path, url) {
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  await keep(cache, path, response);
}

self.addEventListener("activate", (event) => event.waitUntil(removeOldFiles().then(() => self.clients.claim())));

self.addEventListener("fetch", (event) => {
  const url = event.request.url.split(/[?#]/)[0];
  const path = url.slice(scope.length) || "index.html";
  if (!url.startsWith(scope) || !(path in FILES)) return;
  event.respondWith(get(path, event).then((response) => withHeaders(response, event.request.destination)));
});

// The response for a file, from the cache or from the server. Only what has its fingerprint is kept: a host may still
// serve the file of an older version, or answer with a page of its own.
async function get(path, event) {
  const cache = await caches.open(CACHE);
  const found = await cache.match(keyOf(path));
  if (found) return found;
  const response = await fetch(keyOf(path), { cache: "no-cache" }); // an address under which no older file was ever stored
  if (response.ok) event.waitUntil(keep(cache, path, response.clone()).catch(console.warn)); // such as without enough space
  return response;
}

async function keep(cache, path, response) {
  const { headers } = response;
  const content = await response.arrayBuffer();
  if ((await fingerprint(content)) !== FILES[path]) throw new Error(`${path} is not the file that was published.`);
  await cache.put(keyOf(path), new Response(content, { headers }));
}

// The beginning of the SHA-256, as publishing/static_site.py writes it.
async function fingerprint(content) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(hash.slice(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
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
