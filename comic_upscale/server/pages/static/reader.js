"use strict";
// The reader: keys and taps turn pages, one key shows the original. Without this, its links do the same.
(() => {
  const reader = document.getElementById("reader"), swap = document.getElementById("swap");
  const images = [...reader.querySelectorAll("img")];
  const isStrip = reader.classList.contains("strip"), isRtl = reader.dataset.rtl === "yes";
  const go = (rel) => document.querySelector(`.bar a[rel="${rel}"]`)?.click();
  const left = () => go(isRtl ? "next" : "prev"), right = () => go(isRtl ? "prev" : "next");

  const pairs = images.filter((image) => image.dataset.before);
  swap.hidden = !pairs.length;
  function show(isBefore) {
    // Both have the place of the result, so that nothing jumps.
    for (const image of pairs) {
      image.dataset.after ||= image.getAttribute("src");
      image.src = isBefore ? image.dataset.before : image.dataset.after;
    }
    swap.setAttribute("aria-pressed", String(isBefore));
    try { sessionStorage.setItem("reader-before", isBefore ? "yes" : ""); } catch { /* It lasts for this page then. */ }
  }
  const toggle = () => show(swap.getAttribute("aria-pressed") !== "true");
  swap.addEventListener("click", toggle);
  try { if (sessionStorage.getItem("reader-before")) show(true); } catch { /* Then not. */ }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = { b: toggle, f: full };
    if (!isStrip) Object.assign(keys, { ArrowLeft: left, ArrowRight: right, PageDown: () => go("next"), PageUp: () => go("prev"), " ": () => go(event.shiftKey ? "prev" : "next") });
    const act = keys[event.key] || keys[event.key.toLowerCase()];
    if (act && !(event.key === " " && event.target.matches("a, button"))) { event.preventDefault(); act(); }
  });
  function full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen?.().catch(() => {});
  }
  if (!isStrip) reader.addEventListener("click", (event) => {
    // The outer thirds of the screen turn pages, as readers on phones do.
    const place = event.clientX / innerWidth;
    if (place < 1 / 3) left();
    else if (place > 2 / 3) right();
  });
})();
