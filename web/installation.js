// Wait until the service worker has stored the page. Reload the page if that isolates it, so that the captioner can use
// threads, unless the page is `inUse()`. Without a service worker, everything but these two works.
export async function installServiceWorker(inUse) {
  if (!navigator.serviceWorker || navigator.serviceWorker.controller) return;
  try {
    const registration = await navigator.serviceWorker.register("service_worker.js", { updateViaCache: "none" });
    const installing = registration.installing ?? registration.waiting ?? registration.active;
    await new Promise((resolve) => {
      const check = () => ["activated", "redundant"].includes(installing.state) && resolve();
      installing.addEventListener("statechange", check);
      check();
    });
  } catch {
    return; // such as in a private window
  }
  if (navigator.serviceWorker.controller && !crossOriginIsolated && !inUse()) {
    location.reload();
    await new Promise(() => {}); // nothing else until then
  }
}
