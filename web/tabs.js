// Tabs (https://www.w3.org/WAI/ARIA/apg/patterns/tabs/): buttons that show one of several panels.

// The buttons in `list` have an aria-controls. `onOpen(id)` is called with the id of a panel when it is shown. Returns a
// function that shows a panel.
export function addTabs(list, onOpen) {
  const buttons = [...list.querySelectorAll("[role=tab]")];
  const panelOf = (button) => document.getElementById(button.getAttribute("aria-controls"));

  function open(id) {
    for (const button of buttons) {
      const panel = panelOf(button);
      const selected = panel.id === id;
      button.setAttribute("aria-selected", String(selected));
      button.tabIndex = selected ? 0 : -1;
      panel.hidden = !selected;
    }
    onOpen(id);
  }

  buttons.forEach((button, i) => {
    button.addEventListener("click", () => open(panelOf(button).id));
    button.addEventListener("keydown", ({ key }) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
      if (!step) return;
      const next = buttons[(i + step + buttons.length) % buttons.length];
      next.focus();
      open(panelOf(next).id);
    });
  });
  return open;
}
