"use strict";
// Results side by side: one place and one zoom for all of them, also for those that come later.
(() => {
  const list = document.querySelector(".panes");
  const view = { zoom: 0, x: .5, y: .5 };   // 0 fits; the place is that of the middle, as shares of the picture.
  const pointers = new Map();
  let spread = 0;

  const boxes = () => [...list.querySelectorAll(".view")];
  const sizeOf = (box) => { const image = box.firstElementChild; return [Number(image.getAttribute("width")), Number(image.getAttribute("height"))]; };
  const fitOf = (box) => { const [w, h] = sizeOf(box); return Math.min(box.clientWidth / w, box.clientHeight / h); };
  // At 100 %, a pixel of a result is a pixel of the screen, which may be smaller than a pixel of CSS.
  const ratio = () => devicePixelRatio || 1;
  const scaleOf = (box) => view.zoom / ratio() || fitOf(box);
  // Between two pixels of the screen, every pixel of the page would be blurred.
  const onScreen = (place) => Math.round(place * ratio()) / ratio();

  function draw() {
    document.getElementById("tools").hidden = document.getElementById("keys").hidden = false;
    for (const box of boxes()) {
      box.classList.add("ready");
      const [w, h] = sizeOf(box), scale = scaleOf(box), image = box.firstElementChild;
      image.style.width = `${w}px`; image.style.height = `${h}px`;
      const inside = (share, room, size) => size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, room / 2 - share * size));
      const x = inside(view.x, box.clientWidth, w * scale), y = inside(view.y, box.clientHeight, h * scale);
      image.style.transform = `translate(${onScreen(x)}px, ${onScreen(y)}px) scale(${scale})`;
    }
    const first = boxes()[0];
    if (first) document.getElementById("zoom").textContent = `${Math.round(scaleOf(first) * ratio() * 100)} %`;
    document.querySelectorAll("[data-zoom]").forEach((button) => {
      const zoom = button.dataset.zoom === "fit" ? 0 : Number(button.dataset.zoom);
      button.setAttribute("aria-pressed", String(zoom === view.zoom));
    });
  }

  const clamp = (share) => Math.min(1, Math.max(0, share));
  function zoom(scale, box = boxes()[0], x = box.clientWidth / 2, y = box.clientHeight / 2) {
    const [w, h] = sizeOf(box), old = scaleOf(box), least = fitOf(box), next = Math.min(16 / ratio(), scale);
    // What is under the pointer stays there.
    view.x = clamp(view.x + (x - box.clientWidth / 2) * (1 / old - 1 / next) / w);
    view.y = clamp(view.y + (y - box.clientHeight / 2) * (1 / old - 1 / next) / h);
    view.zoom = next <= least ? 0 : next * ratio();
    draw();
  }
  function move(box, dx, dy) {
    const [w, h] = sizeOf(box), scale = scaleOf(box);
    view.x = clamp(view.x - dx / (w * scale)); view.y = clamp(view.y - dy / (h * scale));
    draw();
  }

  list.addEventListener("wheel", (event) => {
    const box = event.target.closest(".view");
    if (!box) return;
    event.preventDefault();
    const place = box.getBoundingClientRect();
    zoom(scaleOf(box) * Math.exp(-event.deltaY * (event.ctrlKey ? .01 : .0016)), box, event.clientX - place.left, event.clientY - place.top);
  }, { passive: false });
  list.addEventListener("pointerdown", (event) => {
    const box = event.target.closest(".view");
    if (!box || event.button) return;
    box.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event); spread = 0;
  });
  list.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId), box = event.target.closest(".view");
    if (!before || !box) return;
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      const [one, other] = [...pointers.values()], now = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const place = box.getBoundingClientRect();
      if (spread) zoom(scaleOf(box) * now / spread, box, (one.clientX + other.clientX) / 2 - place.left, (one.clientY + other.clientY) / 2 - place.top);
      spread = now;
    } else move(box, event.clientX - before.clientX, event.clientY - before.clientY);
  });
  for (const name of ["pointerup", "pointercancel"]) list.addEventListener(name, (event) => { pointers.delete(event.pointerId); spread = 0; });
  list.addEventListener("dblclick", (event) => {
    const box = event.target.closest(".view"), place = box?.getBoundingClientRect();
    if (!box) return;
    if (view.zoom) { view.zoom = 0; draw(); } else zoom(2 / ratio(), box, event.clientX - place.left, event.clientY - place.top);
  });

  document.querySelectorAll("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
    if (button.dataset.zoom === "fit") { view.zoom = 0; draw(); } else zoom(Number(button.dataset.zoom) / ratio());
  }));
  document.getElementById("hard").addEventListener("click", (event) => {
    event.target.setAttribute("aria-pressed", String(list.classList.toggle("hard")));
  });
  addEventListener("keydown", (event) => {
    const box = boxes()[0];
    if (!box || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    const step = 60, keys = {
      "0": () => { view.zoom = 0; draw(); }, "1": () => zoom(1 / ratio()), "2": () => zoom(2 / ratio()), "4": () => zoom(4 / ratio()),
      "+": () => zoom(scaleOf(box) * 1.25), "-": () => zoom(scaleOf(box) / 1.25),
    };
    if (event.target.matches(".view")) Object.assign(keys, {
      ArrowLeft: () => move(box, step, 0), ArrowRight: () => move(box, -step, 0), ArrowUp: () => move(box, 0, step), ArrowDown: () => move(box, 0, -step),
    });
    const act = keys[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  new MutationObserver(draw).observe(list, { childList: true });
  new ResizeObserver(draw).observe(list);
  draw();
})();
