// One Tab stop for many buttons: arrow keys, Home and End move inside. See "roving tabindex" in the ARIA practices.

// Let the elements in `container` that match `selector` share one Tab stop. Returns a function to call when the elements
// have changed; its argument is the index of the element that Tab reaches.
export function addRoving(container, selector) {
  const items = () => [...container.querySelectorAll(selector)];

  function update(current = 0) {
    items().forEach((item, i) => item.setAttribute("tabindex", i === current ? 0 : -1));
  }

  container.addEventListener("keydown", (event) => {
    const all = items();
    const index = all.indexOf(event.target);
    const target = {
      ArrowLeft: index - 1,
      ArrowRight: index + 1,
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (index < 0 || target === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(target, 0), all.length - 1)].focus();
  });
  container.addEventListener("focusin", (event) => {
    const index = items().indexOf(event.target);
    if (index >= 0) update(index);
  });
  update();
  return update;
}
