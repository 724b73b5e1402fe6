// While an answer is shown, Gradio's picture input is folded away: a photo dropped on the stage goes in here; so does one
// that is pasted anywhere while the tab is open.

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
document.addEventListener("paste", (event) => document.querySelector("#see").offsetParent && bring(event.clipboardData.files[0]));
