(wrong, marks) => {
  // Gradio renders the example images as buttons without an accessible name, again on every change.
  const page = document.querySelector(".gradio-container");
  const labelExamples = () => {
    for (const button of page.querySelectorAll(".gallery-item:not([aria-label])")) {
      const image = button.querySelector("img");
      if (!image) continue;
      const name = image.src.split("/").pop().replace(/\.\w+$/, "");
      button.setAttribute("aria-label", name);
      if (!wrong.includes(name)) continue;
      const [mark, shortMark] = marks[document.documentElement.lang] ?? marks.en;
      button.setAttribute("aria-label", `${name}. ${mark}`);
      button.title = mark;
      button.dataset.mark = shortMark; // shown by page.css
    }
  };
  new MutationObserver(labelExamples).observe(page, { childList: true, subtree: true });
  labelExamples();
}
