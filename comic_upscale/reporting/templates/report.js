
"use strict";
(function () {
  var root = document.documentElement;
  var pages = Array.prototype.slice.call(document.querySelectorAll(".page"));
  var zoom = "fit";
  var current = -1;
  var before = false;

  function parts(page) {
    return {
      viewer: page.querySelector(".viewer"),
      scroller: page.querySelector(".scroller"),
      stage: page.querySelector(".stage"),
      after: page.querySelector(".after"),
      divider: page.querySelector(".divider"),
      slider: page.querySelector(".slider"),
    };
  }

  // The slider is a place in what can be seen, wherever the picture is scrolled to.
  function divide(page) {
    var p = parts(page);
    var seen = p.viewer.clientWidth;
    var at = (seen * Number(p.slider.value)) / 100;
    var inStage = at - (p.stage.getBoundingClientRect().left - p.viewer.getBoundingClientRect().left);
    p.divider.style.left = at + "px";
    p.after.style.clipPath = "inset(0 0 0 " + Math.max(0, inStage) + "px)";
  }

  // 100 % is one pixel of the output on one pixel of the page.
  function size(page) {
    var p = parts(page);
    var width = Number(p.viewer.dataset.width);
    var height = Number(p.viewer.dataset.height);
    var room = page.clientWidth - 2 * parseFloat(getComputedStyle(page).paddingLeft);
    var factor = zoom === "fit" ? Math.min(1, room / width, (window.innerHeight * 0.8) / height) : Number(zoom);
    var old = p.stage.offsetWidth || 1;
    var x = (p.scroller.scrollLeft + p.scroller.clientWidth / 2) / old;
    var y = (p.scroller.scrollTop + p.scroller.clientHeight / 2) / (p.stage.offsetHeight || 1);
    p.stage.style.width = width * factor + "px";
    p.stage.style.height = height * factor + "px";
    p.viewer.style.width = Math.min(room, width * factor) + "px";
    // The middle of what was seen stays in the middle.
    p.scroller.scrollLeft = x * width * factor - p.scroller.clientWidth / 2;
    p.scroller.scrollTop = y * height * factor - p.scroller.clientHeight / 2;
    divide(page);
  }

  function setZoom(value) {
    zoom = value;
    document.querySelectorAll("[data-zoom]").forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.dataset.zoom === value));
    });
    pages.forEach(size);
  }

  function hardPixels() {
    var hard = root.classList.toggle("hard");
    document.getElementById("pixels").setAttribute("aria-pressed", String(hard));
  }

  function turnTheme() {
    var dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  }

  function go(step) {
    if (!pages.length) { return; }
    current = Math.max(0, Math.min(pages.length - 1, current + step));
    pages[current].scrollIntoView({ block: "start" });
    pages[current].focus({ preventScroll: true });
  }

  function setAll(value) {
    pages.forEach(function (page) {
      page.querySelector(".slider").value = value;
      divide(page);
    });
  }

  function slide(step) {
    if (current < 0) { return; }
    var slider = pages[current].querySelector(".slider");
    slider.value = Number(slider.value) + step;
    divide(pages[current]);
  }

  pages.forEach(function (page, number) {
    var p = parts(page);
    p.slider.addEventListener("input", function () { divide(page); });
    p.scroller.addEventListener("scroll", function () { divide(page); });
    p.scroller.addEventListener("click", function (event) {
      var box = p.viewer.getBoundingClientRect();
      p.slider.value = (100 * (event.clientX - box.left)) / box.width;
      divide(page);
    });
    page.addEventListener("focusin", function () { current = number; });
  });
  document.querySelectorAll("[data-zoom]").forEach(function (button) {
    button.addEventListener("click", function () { setZoom(button.dataset.zoom); });
  });
  document.getElementById("pixels").addEventListener("click", hardPixels);
  document.getElementById("theme").addEventListener("click", turnTheme);
  window.addEventListener("resize", function () { pages.forEach(size); });
  document.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    var onSlider = event.target.classList && event.target.classList.contains("slider");
    if (event.key === "0") { setZoom("fit"); }
    else if ("124".indexOf(event.key) >= 0 && event.key.length === 1) { setZoom(event.key); }
    else if (event.key === "j") { go(1); }
    else if (event.key === "k") { go(-1); }
    else if (event.key === "p") { hardPixels(); }
    else if (event.key === "d") { turnTheme(); }
    else if (event.key === "b") { before = !before; setAll(before ? 100 : 0); }
    else if (event.key === "ArrowLeft" && !onSlider) { slide(-5); }
    else if (event.key === "ArrowRight" && !onSlider) { slide(5); }
    else { return; }
    if (!onSlider || event.key.indexOf("Arrow") !== 0) { event.preventDefault(); }
  });
  setZoom("fit");
})();
