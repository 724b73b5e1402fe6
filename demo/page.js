() => {
  // Gradio's example pictures are buttons without a name, and are made anew whenever they change.
  const see = document.querySelector("#see");
  const name = () => {
    for (const button of see.querySelectorAll(".gallery-item:not([aria-label])")) {
      const picture = button.querySelector("img");
      if (picture) button.setAttribute("aria-label", picture.src.split("/").pop().replace(/\.\w+$/, ""));
    }
  };
  new MutationObserver(name).observe(see, { childList: true, subtree: true });
  name();
}
