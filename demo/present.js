// Presenting: a part of the page fills the screen, in twice the size, such as on a projector.

export async function present(element, button) {
  const on = !element.classList.contains("presenting");
  const set = (value) => {
    element.classList.toggle("presenting", value);
    button.setAttribute("aria-pressed", String(value));
  };
  set(on);
  if (!on) {
    if (document.fullscreenElement) await document.exitFullscreen();
    return;
  }
  try {
    await element.requestFullscreen();
    element.onfullscreenchange = () => document.fullscreenElement || set(false); // it also comes when it begins
  } catch {
    // Without full screen, as on an iPhone, it still fills the window.
  }
}
