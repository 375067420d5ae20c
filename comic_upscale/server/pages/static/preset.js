"use strict";
// A preset with a size selects it. A size that the form does not offer is left to the preset.
(() => {
  const preset = document.getElementById("preset"), own = document.getElementById("by-preset");
  const factors = [...document.querySelectorAll('#factors [name="factor"]')];
  const chosen = () => factors.find((each) => each.checked)?.value;
  let before = null;

  preset.addEventListener("change", () => {
    const size = preset.selectedOptions[0].dataset.ownSize;
    // A preset without a size leaves the factor that somebody chose.
    if (before === null) before = chosen();
    const wanted = size === "other" ? "" : size || before;
    own.hidden = size !== "other";
    (factors.find((each) => each.value === wanted) || factors[0]).checked = true;
    if (!size) before = null;
  });
  factors.forEach((each) => each.addEventListener("change", () => { before = null; }));
})();
