// Uploads a photo that is dropped on the viewer or pasted while its tab is open. Gradio's image input, which does this
// otherwise, is hidden while a caption is shown.

import { fill, texts } from "./i18n.js";

export function acceptPhotos(shown, upload) {
  const { viewer, panel, trigger } = shown;

  async function uploadPhoto(file) {
    if (!file) return;
    let uploaded;
    try {
      uploaded = await upload(file);
    } catch {
      return shown.showMessage(fill(texts.upload_failed, { name: file.name }));
    }
    const { path, url } = uploaded;
    panel.uploadedPhoto = { path, url, orig_name: file.name, meta: { _type: "gradio.FileData" } };
    trigger("photo_uploaded");
  }

  viewer.addEventListener("dragover", (event) => event.preventDefault());
  viewer.addEventListener("drop", (event) => {
    event.preventDefault();
    uploadPhoto(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const visible = [...document.querySelectorAll(".caption-panel")].filter((other) => other.offsetParent);
    const focused = event.target.closest(".caption-panel");
    if (panel === (visible.includes(focused) ? focused : visible[0])) uploadPhoto(event.clipboardData.files[0]);
  });
}
