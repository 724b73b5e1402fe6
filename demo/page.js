() => {
  // Gradio renders the example images as buttons without an accessible name, again on every change.
  const tab = document.querySelector("#caption_tab");
  const labelExamples = () => {
    for (const button of tab.querySelectorAll(".gallery-item:not([aria-label])")) {
      const image = button.querySelector("img");
      if (image) button.setAttribute("aria-label", image.src.split("/").pop().replace(/\.\w+$/, ""));
    }
  };
  new MutationObserver(labelExamples).observe(tab, { childList: true, subtree: true });
  labelExamples();
}
