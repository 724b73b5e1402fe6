// A photo with its viewer: opens photos, asks the engine for their captions, and shows each answer with the photo that it
// was asked about.

import { fill, texts } from "./i18n.js";
import { writeState } from "./page_state.js";
import { decodePhoto, photoUrl } from "./photos.js";

const MASK_SIDE = 48; // cells per side of the grid in which a visitor covers parts of the photo
const template = document.querySelector("#viewer_template");
let photos = 0; // their number so far, which makes keys for the engine

export class PhotoPanel {
  #watchers = {};
  #newest = 0; // the number of the newest request for a caption; the results of earlier ones are ignored
  #newestPhoto = 0; // the number of the newest photo, which may still be on its way

  // `options()` returns the language and settings of captions, `mount` is mountViewer or a relative of it, which gets
  // `props` besides those that change.
  constructor(element, engine, options, mount, props = {}) {
    Object.assign(this, { element, engine, options, photo: null });
    this.host = element.querySelector(".attention-viewer");
    this.host.append(template.content.cloneNode(true));
    this.props = { mask_side: MASK_SIDE, value: {}, occlusion: null, ...props };
    const events = {
      continue_caption: ({ text }) => this.caption(text),
      show_caption: ({ caption }) => this.#explain(caption),
      caption_masked: (request) => this.#captionMasked(request),
      remove_photo: () => this.remove(),
    };
    this.viewer = mount({
      element: this.host,
      props: this.props,
      trigger: (event, data) => queueMicrotask(() => events[event](data)), // once the viewer has done what it is doing
      watch: (name, callback) => (this.#watchers[name] = callback),
    });
  }

  #set(name, value) {
    this.props[name] = value;
    this.#watchers[name]();
  }

  // Show a captioned photo, the file at `url`, which is opened only when it is asked about.
  showExample(answer, url) {
    const key = ++photos;
    const name = url.split("/").pop();
    const getFile = async () => new File([await (await fetch(url)).blob()], name);
    this.#replace({ key, name, url, getFile, opening: true, load: async () => decodePhoto(await getFile()) });
    this.#set("value", { ...answer, photo: url, opening: true });
  }

  // Show a photo at once, and its caption as soon as it is there.
  async open(file) {
    const number = ++this.#newestPhoto;
    const getFile = async () => file;
    let bitmap, url;
    try {
      bitmap = await decodePhoto(file);
      url = photoUrl(bitmap);
    } catch (error) {
      if (number === this.#newestPhoto) this.#fail(error.message);
      return;
    }
    if (number !== this.#newestPhoto) return;
    this.#replace({ key: ++photos, name: file.name, url, getFile, load: () => bitmap });
    this.#set("value", { photo: url, caption: "", words: [], beams: [], pending: true });
    await this.caption();
  }

  // Caption the photo, beginning with the words of `text`.
  caption(text = "") {
    return this.#request("caption", { text }, text);
  }

  // Explain a caption that is given.
  #explain(caption) {
    return this.#request("explain", { caption }, caption);
  }

  // Show the answer unless there is something newer. `given`: the words in it that are not the captioner's.
  async #request(action, values, given) {
    const { photo } = this;
    if (!photo) return;
    const number = ++this.#newest;
    const options = this.options();
    this.host.classList.add("busy");
    try {
      const answer = await this.#ask(action, photo, { ...values, options });
      if (number === this.#newest) this.#show({ ...answer, prefix_length: given ? given.split(" ").length : 0 });
    } catch (error) {
      if (number === this.#newest) this.#fail(fill(texts.photo_failed, { name: photo.name, reason: error.message }));
    }
  }

  async #captionMasked({ request_id, mask, caption }) {
    const { photo } = this;
    try {
      const answer = await this.#ask("captionMasked", photo, { mask, caption, options: this.options() });
      if (photo === this.photo) this.#set("occlusion", { ...answer, request_id });
    } catch (error) {
      if (photo === this.photo) this.#fail(fill(texts.photo_failed, { name: photo.name, reason: error.message }));
    }
  }

  // Ask for something else about the photo.
  request(action, values) {
    return this.#ask(action, this.photo, values);
  }

  async #ask(action, photo, values) {
    photo.opened ??= Promise.resolve(photo.load()).then((bitmap) =>
      this.engine.request("open", { key: photo.key, bitmap }, [bitmap]));
    await photo.opened;
    return this.engine.request(action, { key: photo.key, ...values });
  }

  #show(answer) {
    this.host.classList.remove("busy");
    this.#set("value", { ...answer, photo: this.photo.url, opening: this.photo.opening });
  }

  remove() {
    if (this.props.remembered) writeState({ example: null, photo: null, text: null, word: null });
    this.#newest += 1;
    this.#newestPhoto += 1;
    this.#replace(null);
    this.host.classList.remove("busy");
    this.#set("value", {});
  }

  // A sentence in the place of the photo.
  #fail(message) {
    this.#newest += 1;
    this.#replace(null);
    this.host.classList.remove("busy");
    this.#set("value", { message });
  }

  #replace(photo) {
    // After a failure of the engine there is nothing to close.
    if (this.photo?.opened) this.engine.request("close", { key: this.photo.key }).catch(() => {});
    this.photo = photo;
  }
}
