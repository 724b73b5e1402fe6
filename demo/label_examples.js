// Gradio renders the example images as buttons without an accessible name, again on every change.

// `wrong` lists the names of the examples that get a wrong caption; `marks` are [long, short] sentences that say so, by
// language.
export function labelExamples(wrong, marks) {
  const page = document.querySelector(".gradio-container");
  const label = () => {
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
  new MutationObserver(label).observe(page, { childList: true, subtree: true });
  label();
}
