() => {
  // Gradio renders the example images as buttons without an accessible name, again on every change.
  const page = document.querySelector(".gradio-container");
  const labelExamples = () => {
    for (const button of page.querySelectorAll(".gallery-item:not([aria-label])")) {
      const image = button.querySelector("img");
      if (image) button.setAttribute("aria-label", image.src.split("/").pop().replace(/\.\w+$/, ""));
    }
  };
  new MutationObserver(labelExamples).observe(page, { childList: true, subtree: true });
  labelExamples();
}
