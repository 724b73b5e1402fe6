// Uploads a photo that is dropped on the viewer or pasted while its tab is open. Gradio's image input, which does this
// otherwise, is hidden while a caption is shown.

export function acceptPhotos({ viewer, panel, trigger }, upload) {
  async function uploadPhoto(file) {
    if (!file) return;
    const { path, url } = await upload(file);
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
