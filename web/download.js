// Downloads what the captioner consists of. Large files lie packed with gzip.

// Downloads files relative to `base`. `sizes` maps the paths of large files to their bytes, [packed, unpacked]; while they
// arrive, `onProgress` is called with how many bytes of them are there, and of how many.
export class Downloader {
  #arrived = new Map(); // path -> bytes

  constructor(base, sizes = {}, onProgress = () => {}) {
    Object.assign(this, { base, sizes, onProgress });
  }

  // The content of a file, an ArrayBuffer. Throws an Error that names the file and says what is wrong.
  async get(path) {
    const packed = await this.#fetch(path);
    const bytes = isPacked(packed) ? await unpack(packed) : packed; // some hosts let the browser unpack it
    const expected = this.sizes[path]?.[1];
    if (expected !== undefined && bytes.byteLength !== expected) {
      throw new Error(`${path} is not the file that was published (${bytes.byteLength} bytes instead of ${expected})`);
    }
    return bytes;
  }

  async json(path) {
    const response = await this.#request(path);
    try {
      return await response.json();
    } catch {
      throw new Error(`${path} is not JSON (${response.headers.get("Content-Type")})`);
    }
  }

  async #request(path) {
    let response;
    try {
      response = await fetch(new URL(path, this.base));
    } catch (error) {
      throw new Error(`${path} did not arrive (${error.message})`, { cause: error });
    }
    if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
    return response;
  }

  async #fetch(path) {
    this.#count(path, 0); // before it answers, so that the sum is known from the beginning
    const response = await this.#request(path);
    const parts = [];
    try {
      for (const reader = response.body.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        this.#count(path, value.length);
      }
    } catch (error) {
      throw new Error(`${path} did not arrive whole (${error.message})`, { cause: error });
    }
    return new Blob(parts).arrayBuffer();
  }

  #count(path, bytes) {
    if (!(path in this.sizes)) return;
    this.#arrived.set(path, Math.min((this.#arrived.get(path) ?? 0) + bytes, this.sizes[path][0]));
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    this.onProgress(sum([...this.#arrived.values()]), sum([...this.#arrived.keys()].map((each) => this.sizes[each][0])));
  }
}

function isPacked(bytes) {
  const [first, second] = new Uint8Array(bytes, 0, Math.min(2, bytes.byteLength));
  return first === 0x1f && second === 0x8b;
}

function unpack(bytes) {
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}
