// Two captions side by side: of two photos, or of one photo with two settings or in two languages.

import { mountComparedViewer } from "./compare.js";
import { addPhotoInput } from "./photo_input.js";
import { readState, writeState } from "./page_state.js";
import { PhotoPanel } from "./photo_panel.js";
import { addSettings } from "./settings.js";

export function addCompareTab(element, engine, languages) {
  const same = element.querySelector("#same_photo");
  const sides = ["A", "B"].map((name) => addSide(element.querySelector("#comparison"), name, engine, languages, open));
  // So that the sides differ: the left one searches greedily, the right one in the captioner's way.
  engine.loaded.then(({ settings }) => {
    sides[0].settings.ready({ ...settings, num_beams: 1 });
    sides[1].settings.ready(settings);
    sides.forEach(({ panel }) => panel.caption());
  }, () => {});

  function open(file, side) {
    for (const each of sides) if (same.checked || each === side) each.panel.open(file);
  }

  same.checked = readState("same") !== "0";
  same.addEventListener("change", () => {
    writeState({ same: same.checked ? null : "0" });
    const { photo } = sides[0].panel;
    if (same.checked && photo) photo.getFile().then((file) => sides[1].panel.open(file));
  });

  return {
    // Show the photo of the first tab, unless there is one already.
    async open(photo) {
      if (photo && sides.every(({ panel }) => !panel.photo)) open(await photo.getFile(), sides[0]);
    },
    // Open a file that was dropped on `target`.
    receive(file, target) {
      open(file, sides.find(({ panel }) => panel.element.contains(target)) ?? sides[0]);
    },
  };
}

function addSide(comparison, name, engine, languages, open) {
  const element = document.querySelector("#side_template").content.firstElementChild.cloneNode(true);
  element.querySelector("h2").textContent = name;
  comparison.append(element);
  const side = {};
  side.settings = addSettings(element.querySelector(".settings"), languages, () => side.panel.caption(), `${name.toLowerCase()}_`);
  side.panel = new PhotoPanel(element, engine, side.settings.options, mountComparedViewer);
  addPhotoInput(element.querySelector(".photo-input"), (file) => open(file, side));
  return side;
}
