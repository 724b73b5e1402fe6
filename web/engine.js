// The worker that runs the captioner, as promises.

// Dispatches "progress" with [arrived, all] bytes, "ready" with { settings }, and "failure" with the reason why
// the captioner cannot be loaded, each in `detail`.
export class Engine extends EventTarget {
  #worker;
  #answers = new Map(); // id of a request -> the functions that take its result or its error
  #waiting = []; // requests that were made before the worker was there
  #requests = 0;
  #failed = null; // the reason why there will be no captions
  // A promise of what "ready" says; rejected with the failure.
  loaded = new Promise((resolve, reject) => {
    this.addEventListener("ready", ({ detail }) => resolve(detail));
    this.addEventListener("failure", ({ detail }) => reject(new Error(detail)));
  });

  constructor() {
    super();
    this.loaded.catch(() => {}); // told by the event
  }

  start() {
    this.#worker = new Worker("worker.js", { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    // Errors of requests come back as answers; what remains is that a script does not load.
    this.#worker.onerror = (event) => this.fail(event.message || "worker.js, or a script that it imports");
    for (const message of this.#waiting.splice(0)) this.#worker.postMessage(...message);
  }

  // From now on, there are no captions.
  fail(message) {
    const reason = message.replace(/\.$/, ""); // it becomes part of a sentence
    this.#failed = reason;
    for (const { reject } of this.#answers.values()) reject(new Error(reason));
    this.#answers.clear();
    this.#tell("failure", reason);
  }

  // Ask for an action of worker.js. The promise is rejected with an Error that concerns this request only.
  request(action, values, transferred = []) {
    if (this.#failed !== null) return Promise.reject(new Error(this.#failed));
    const id = ++this.#requests;
    const message = [{ id, action, ...values }, transferred];
    if (this.#worker) this.#worker.postMessage(...message);
    else this.#waiting.push(message);
    return new Promise((resolve, reject) => this.#answers.set(id, { resolve, reject }));
  }

  #receive({ id, result, error, progress, failure, ...ready }) {
    if (progress) return this.#tell("progress", progress);
    if (failure) return this.fail(failure);
    if (id === undefined) return this.#tell("ready", ready);
    if (!this.#answers.has(id)) return; // after a failure
    const { resolve, reject } = this.#answers.get(id);
    this.#answers.delete(id);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
