// While an answer is shown, Gradio's picture input is folded away: a photo dropped on the stage or pasted goes in here.

async function bring(file) {
  if (!file) return;
  const { path, url } = await upload(file);
  window.broughtPhoto = { path, url, orig_name: file.name, meta: { _type: "gradio.FileData" } };
  trigger("brought");
}

stage.addEventListener("dragover", (event) => event.preventDefault());
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  bring(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => element.isConnected && !stage.hidden && bring(event.clipboardData.files[0]));
