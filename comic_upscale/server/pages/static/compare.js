"use strict";
// Before and after, one over the other: a border to drag, and one zoom and place for both.
(() => {
  const box = document.getElementById("compare");
  if (!box) return;
  const after = document.getElementById("after"), handle = document.getElementById("handle");
  const images = [...box.querySelectorAll("img")];
  const width = Number(box.dataset.width), height = Number(box.dataset.height);
  const view = { scale: 1, x: 0, y: 0, border: 50, isFit: true };
  const pointers = new Map();
  let isHeld = false, dragging = null, spread = 0;

  box.classList.add("ready");
  document.getElementById("tools").hidden = document.getElementById("keys").hidden = false;
  // Both are drawn at the size of the result, so that they lie over each other.
  for (const image of images) { image.style.width = `${width}px`; image.style.height = `${height}px`; }

  // At 100 %, a pixel of the result is a pixel of the screen, which may be smaller than a pixel of CSS.
  const ratio = () => devicePixelRatio || 1;
  const least = () => Math.min(box.clientWidth / width, box.clientHeight / height, 1 / ratio());
  // Between two pixels of the screen, every pixel of the page would be blurred.
  const onScreen = (place) => Math.round(place * ratio()) / ratio();

  function draw() {
    const { clientWidth: w, clientHeight: h } = box;
    // A page smaller than the view is in its middle; a larger one covers it.
    const inside = (place, room, size) => size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, place));
    view.x = inside(view.x, w, width * view.scale);
    view.y = inside(view.y, h, height * view.scale);
    const transform = `translate(${onScreen(view.x)}px, ${onScreen(view.y)}px) scale(${view.scale})`;
    for (const image of images) image.style.transform = transform;
    const border = isHeld ? 100 : view.border;
    after.style.clipPath = `inset(0 0 0 ${border}%)`;
    handle.style.left = `${view.border}%`;
    handle.setAttribute("aria-valuenow", String(Math.round(view.border)));
    document.getElementById("zoom").textContent = `${Math.round(view.scale * ratio() * 100)} %`;
    document.querySelectorAll("[data-zoom]").forEach((button) => {
      const zoom = button.dataset.zoom;
      button.setAttribute("aria-pressed", String(zoom === "fit" ? view.isFit : !view.isFit && Math.abs(Number(zoom) / ratio() - view.scale) < 1e-9));
    });
  }

  function fit() {
    Object.assign(view, { scale: least(), x: 0, y: 0, isFit: true });
    draw();
  }

  function zoom(scale, x = box.clientWidth / 2, y = box.clientHeight / 2) {
    const next = Math.min(16 / ratio(), Math.max(least(), scale));
    // What is under the pointer stays there.
    view.x = x - (x - view.x) * next / view.scale;
    view.y = y - (y - view.y) * next / view.scale;
    view.scale = next;
    view.isFit = next === least();
    draw();
  }

  function zoomTo(zoomed) { zoom(zoomed / ratio()); }

  function move(dx, dy) {
    view.x += dx; view.y += dy;
    draw();
  }

  function moveBorder(percent) {
    view.border = Math.min(100, Math.max(0, percent));
    draw();
  }

  box.addEventListener("wheel", (event) => {
    event.preventDefault();
    const place = box.getBoundingClientRect();
    zoom(view.scale * Math.exp(-event.deltaY * (event.ctrlKey ? .01 : .0016)), event.clientX - place.left, event.clientY - place.top);
  }, { passive: false });

  box.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    box.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    dragging = event.target === handle ? "border" : "page";
    spread = 0;
  });
  box.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    pointers.set(event.pointerId, event);
    const place = box.getBoundingClientRect();
    if (pointers.size === 2) {
      const [one, other] = [...pointers.values()];
      const now = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      if (spread) zoom(view.scale * now / spread, (one.clientX + other.clientX) / 2 - place.left, (one.clientY + other.clientY) / 2 - place.top);
      spread = now;
    } else if (dragging === "border") {
      moveBorder((event.clientX - place.left) / place.width * 100);
    } else {
      move(event.clientX - before.clientX, event.clientY - before.clientY);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) box.addEventListener(name, (event) => { pointers.delete(event.pointerId); spread = 0; });
  box.addEventListener("dblclick", () => view.isFit ? zoomTo(1) : fit());

  document.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
    if (button.dataset.zoom === "fit") fit();
    else zoomTo(Number(button.dataset.zoom));
  }));
  document.getElementById("hard").addEventListener("click", (event) => {
    event.target.setAttribute("aria-pressed", String(box.classList.toggle("hard")));
  });

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    const step = event.shiftKey ? 1 : 5;
    const keys = {
      ArrowLeft: () => moveBorder(view.border - step), ArrowRight: () => moveBorder(view.border + step),
      Home: () => moveBorder(0), End: () => moveBorder(100),
      "0": fit, "1": () => zoomTo(1), "2": () => zoomTo(2), "4": () => zoomTo(4),
      w: () => move(0, 60), a: () => move(60, 0), s: () => move(0, -60), d: () => move(-60, 0),
      "+": () => zoom(view.scale * 1.25), "-": () => zoom(view.scale / 1.25),
      b: () => { isHeld = true; draw(); },
      j: () => document.querySelector('a[rel="next"]')?.click(), k: () => document.querySelector('a[rel="prev"]')?.click(),
    };
    const act = keys[event.key] || keys[event.key.toLowerCase()];
    if (act && !((event.key === "Home" || event.key === "End") && document.activeElement !== handle)) { event.preventDefault(); act(); }
  });
  addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "b") { isHeld = false; draw(); } });
  addEventListener("blur", () => { isHeld = false; draw(); });
  new ResizeObserver(() => view.isFit ? fit() : draw()).observe(box);
  fit();
})();
