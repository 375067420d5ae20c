"use strict";
// The upload page: files and folders by dropping or choosing, limits before they are hit, progress while sending.
(() => {
  const form = document.getElementById("upload");
  const by = (id) => document.getElementById(id);
  const maxBytes = Number(form.dataset.maxBytes), maxFiles = Number(form.dataset.maxFiles);
  const extensions = new Set(form.dataset.extensions.split(" ").map((each) => each.replace(/^\./, "")));
  const maxPixels = Number(form.dataset.maxPixels);
  const isUsedUp = "isUsedUp" in form.dataset, bytesLeft = Number(form.dataset.bytesLeft ?? Infinity);
  const MOST_SHOWN = 300, MOST_SIZES = 200;
  const NAMES = ["preset", "format", "model", "denoise", "gray", "levels", "neutral_paper", "quality", "width", "height", "paper", "dpi", "bleed", "fit_device"];
  let chosen = [], request = null, ask = 0, last = null, sizesAsk = 0, estimateAsk = 0, targets = new Map();

  const size = (bytes) => {
    let value = bytes;
    for (const unit of ["bytes", "kB", "MB", "GB"]) {
      if (value < 1000 || unit === "GB") return `${value.toFixed(unit === "bytes" || value >= 100 ? 0 : 1)} ${unit}`;
      value /= 1000;
    }
  };
  const extension = (name) => name.split(".").pop().toLowerCase();
  // Empty if the preset decides.
  const factor = () => form.querySelector('[name="factor"]:checked').value;
  const other = () => ["width", "height", "paper", "fit_device"].some((name) => form.elements[name].value.trim());

  function add(files) {
    const names = new Set(chosen.map((each) => each.path));
    let left = 0;
    for (const { file, path } of files) {
      if (names.has(path)) continue;
      names.add(path);
      if (extensions.has(extension(file.name))) chosen.push({ file, path, element: null, pixels: null });
      else if (!file.name.startsWith(".")) left += 1;
    }
    // The order of a reader: page 2 before page 10.
    chosen.sort((one, two) => one.path.localeCompare(two.path, undefined, { numeric: true }));
    show(left);
  }

  function show(left = 0) {
    const total = chosen.reduce((sum, each) => sum + each.file.size, 0);
    const empty = chosen.find((each) => !each.file.size);
    const large = chosen.find((each) => each.pixels && each.pixels[0] * each.pixels[1] > maxPixels);
    by("summary").hidden = !chosen.length;
    by("count").textContent = `${chosen.length} file${chosen.length === 1 ? "" : "s"}, ${size(total)}.`;
    const list = by("chosen");
    list.replaceChildren(...chosen.slice(0, MOST_SHOWN).map(row));
    if (chosen.length > MOST_SHOWN) {
      const more = document.createElement("li");
      more.append("", `and ${chosen.length - MOST_SHOWN} more`);
      list.append(more);
    }
    let wrong = "";
    if (total > maxBytes) wrong = `These files have ${size(total)}. An upload may have ${size(maxBytes)}: remove some.`;
    else if (chosen.length > maxFiles) wrong = `These are ${chosen.length} files. An upload may have ${maxFiles}: remove some, or pack them into a CBZ.`;
    else if (total > bytesLeft) wrong = `These files have ${size(total)}. Of your limit of 24 hours, ${size(bytesLeft)} are left: remove some, or send them later.`;
    else if (empty) wrong = `${empty.path} is empty: remove it.`;
    else if (large) wrong = `${large.path} has more than ${maxPixels.toLocaleString()} pixels: remove it, or send a smaller version.`;
    else if (left) wrong = `${left} file${left === 1 ? " was" : "s were"} left out: neither an image nor a comic.`;
    say(wrong);
    const blocked = isUsedUp || !chosen.length || total > Math.min(maxBytes, bytesLeft) || chosen.length > maxFiles || Boolean(empty) || Boolean(large);
    by("send").disabled = blocked;
    by("send").textContent = isUsedUp ? "Your limit is reached" : chosen.length ? `Upscale ${chosen.length} file${chosen.length === 1 ? "" : "s"}` : "Choose files first";
    askEstimate();
    askSizes();
  }

  function row(item) {
    if (item.element) return item.element;
    const li = document.createElement("li"), text = document.createElement("div");
    const name = document.createElement("div"), detail = document.createElement("div"), remove = document.createElement("button");
    name.className = "name"; name.textContent = name.title = item.path;
    detail.className = "small quiet"; detail.textContent = size(item.file.size);
    text.className = "name"; text.append(name, detail);
    remove.type = "button"; remove.className = "plain"; remove.textContent = "✕";
    remove.setAttribute("aria-label", `Remove ${item.path}`);
    remove.addEventListener("click", () => {
      chosen = chosen.filter((each) => each !== item);
      forget(item);
      show();
    });
    li.append(picture(item, detail), text, remove);
    item.detail = detail;
    return item.element = li;
  }

  function picture(item) {
    const blank = document.createElement("span");
    blank.className = "blank"; blank.textContent = extension(item.file.name).slice(0, 4);
    if (!/^(png|jpe?g|webp|gif|avif|bmp)$/.test(extension(item.file.name))) return blank;
    const image = new Image();
    image.alt = ""; image.loading = "lazy"; image.decoding = "async";
    image.addEventListener("load", () => {
      item.pixels = [image.naturalWidth, image.naturalHeight];
      if (item.pixels[0] * item.pixels[1] > maxPixels) show(); else { describe(item); askSizes(); }
    });
    image.addEventListener("error", () => image.replaceWith(blank));
    image.src = item.url = URL.createObjectURL(item.file);
    return image;
  }

  function describe(item) {
    if (!item.pixels || !item.detail) return;
    const [width, height] = item.pixels, target = targets.get(`${width} ${height}`);
    const then = target ? ` → ${target[0]} × ${target[1]}` : "";
    item.detail.textContent = `${size(item.file.size)}, ${width} × ${height}${then}`;
    item.detail.classList.toggle("wrong", width * height > maxPixels);
  }

  // A size in pixels, for print or for a screen takes the place of the factor.
  function showFactors() {
    by("factors").disabled = other();
    by("size-elsewhere").hidden = !other();
  }

  // The server says how large pages become: a size in pixels or for print gives each page its own factor.
  function askSizes() {
    clearTimeout(sizesAsk);
    sizesAsk = setTimeout(async () => {
      const known = new Map(chosen.filter((each) => each.pixels).map(({ pixels }) => [pixels.join(" "), pixels]));
      const sizes = [...known.values()].slice(0, MOST_SIZES);
      const headers = { "Content-Type": "application/json", "X-CSRF-Token": document.body.dataset.csrf };
      try {
        const answer = await fetch(`${root}/upload/sizes`, { method: "POST", headers, body: JSON.stringify({ sizes, fields: Object.fromEntries(fields()) }) });
        const found = await answer.json();
        targets = new Map((found.sizes || []).map((each, number) => [sizes[number].join(" "), each]));
        by("size-problem").textContent = found.error || "";
        by("size-problem").hidden = !found.error;
      } catch { targets = new Map(); }
      chosen.forEach(describe);
    }, 200);
  }

  function fields() {
    const found = NAMES.map((name) => [name, form.elements[name].value.trim()]).filter(([, value]) => value);
    if (!other() && factor()) found.push(["factor", factor()]);
    return found;
  }

  // Forgets a file that was taken out of the list, also what the server has of it.
  function forget(item) {
    if (item.url) URL.revokeObjectURL(item.url);
    if (!item.parts) return;
    const headers = { "Tus-Resumable": "1.0.0", "X-CSRF-Token": document.body.dataset.csrf };
    fetch(item.parts, { method: "DELETE", headers }).catch(() => { /* It expires. */ });
  }

  // The time depends on the model and the size, too.
  function askEstimate() {
    clearTimeout(ask);
    estimateAsk += 1;
    by("estimate").textContent = "";
    if (!by("send").disabled) ask = setTimeout(estimate, 250);
  }

  async function estimate() {
    const mine = estimateAsk, total = chosen.reduce((sum, each) => sum + each.file.size, 0);
    try {
      const query = new URLSearchParams([["bytes", String(total)], ...fields()]);
      const answer = await fetch(`${root}/upload/estimate?${query}`, { headers: { "HX-Request": "true" } });
      const text = answer.ok ? await answer.text() : "";
      // The answer about earlier options may be the slower one.
      if (mine === estimateAsk) by("estimate").innerHTML = text;
    } catch { /* It is only an estimate. */ }
  }

  function say(text) {
    by("problem").textContent = text;
    by("problem").hidden = !text;
  }

  function busy(is) {
    by("sending").hidden = !is;
    by("send").hidden = is;
    by("drop").inert = by("summary").inert = is;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!chosen.length || request) return;
    const given = fields();
    if (chosen.reduce((sum, each) => sum + each.file.size, 0) >= Number(form.dataset.inPartsFrom)) { sendParts(given); return; }
    const body = new FormData();
    // Fields come before files, so that the server can refuse them before it reads gigabytes.
    for (const [name, value] of given) body.append(name, value);
    for (const item of chosen) body.append("file", item.file, item.file.name);
    send(body, keyOf(given));
  });

  async function sendParts(given) {
    const total = chosen.reduce((sum, each) => sum + each.file.size, 0);
    const stop = request = new AbortController();
    let began = 0, first = 0;
    const progress = (sent) => {
      by("bar").value = sent / total;
      if (!began) { began = Date.now(); first = sent; }
      const rate = (sent - first) / Math.max(Date.now() - began, 1) * 1000;
      const rest = rate > 0 ? `, ${size(rate)}/s, about ${Math.ceil((total - sent) / rate)} s left` : "";
      by("sent").textContent = sent < total ? `${size(sent)} of ${size(total)}${rest}` : "The server puts the parts together …";
    };
    const broke = (status) => {
      began = 0;
      by("sent").textContent = status ? "The server is busy. The upload continues in a moment …"
        : "No connection. The upload continues when it is back …";
    };
    say(""); by("bar").value = 0; by("sent").textContent = "Sending …"; busy(true);
    try {
      location.assign(`${root}/jobs/${await uploadInParts(chosen, given, stop, progress, broke)}`);
    } catch (error) {
      request = null;
      busy(false);
      if (error.status === 401) signInAgain();
      else say(error.name === "AbortError" ? "The upload was stopped. Send again: it continues where it stopped." : error.message);
    }
  }

  // The server makes one job of all uploads with one key. So the same files and options keep theirs until they are queued.
  function keyOf(fields) {
    const asked = JSON.stringify([fields, chosen.map(({ file, path }) => [path, file.size, file.lastModified])]);
    if (last?.asked !== asked) {
      const bytes = crypto.getRandomValues(new Uint8Array(16));
      last = { asked, key: Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("") };
    }
    return last.key;
  }

  function send(body, key) {
    const total = chosen.reduce((sum, each) => sum + each.file.size, 0), began = Date.now();
    request = new XMLHttpRequest();
    request.open("POST", `${root}/api/v1/uploads`);
    request.responseType = "json";
    request.setRequestHeader("Idempotency-Key", key);
    if (document.body.dataset.csrf) request.setRequestHeader("X-CSRF-Token", document.body.dataset.csrf);
    request.upload.addEventListener("progress", (event) => {
      by("bar").value = event.loaded / event.total;
      const rate = event.loaded / Math.max(Date.now() - began, 1) * 1000;
      const rest = (event.total - event.loaded) / Math.max(rate, 1);
      by("sent").textContent = event.loaded < event.total
        ? `${size(event.loaded)} of ${size(total)}, ${size(rate)}/s, about ${Math.ceil(rest)} s left`
        : "The server stores the files …";
    });
    const fail = (text) => { request = null; busy(false); say(text); };
    request.addEventListener("load", () => {
      const answer = request.response;
      if (request.status === 202 && answer) { last = null; location.assign(`${root}/jobs/${answer.job_id}`); }
      else if (request.status === 401) signInAgain();
      else fail(answer?.error?.message || `The server answered ${request.status}. Try again.`);
    });
    request.addEventListener("error", () => fail("The connection broke. Send again: nothing is queued twice."));
    request.addEventListener("abort", () => fail("The upload was stopped. If all was sent already, the job is under Jobs."));
    say(""); by("bar").value = 0; by("sent").textContent = "Sending …"; busy(true);
    request.send(body);
  }

  by("stop").addEventListener("click", () => request?.abort());
  by("clear").addEventListener("click", () => { chosen.forEach(forget); chosen = []; show(); });
  by("pick-files").addEventListener("click", () => by("files").click());
  by("pick-folder").addEventListener("click", () => by("folder").click());
  for (const id of ["files", "folder"]) by(id).addEventListener("change", (event) => {
    add([...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
    event.target.value = "";
  });
  form.addEventListener("change", (event) => {
    showFactors();
    askEstimate();
    askSizes();
    const said = (kind) => form.querySelector(`[data-${kind}="${CSS.escape(event.target.value)}"]`)?.textContent;
    if (event.target.id === "model") by("purpose").textContent = said("model") || "Presets suit most comics.";
    if (event.target.id === "preset") by("preset-hint").textContent = said("preset") || "";
  });

  // The whole page takes what is dropped: a miss by a few pixels must not open the file in the browser.
  let depth = 0;
  const over = (is) => by("drop").classList.toggle("over", is);
  addEventListener("dragenter", (event) => { event.preventDefault(); depth += 1; over(true); });
  addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) over(false); });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", async (event) => {
    event.preventDefault(); depth = 0; over(false);
    if (request) return;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? (await Promise.all(entries.map(read))).flat() : [...event.dataTransfer.files].map((file) => ({ file, path: file.name }));
    add(files);
  });

  async function read(entry) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
      return file ? [{ file, path: entry.fullPath.replace(/^\//, "") }] : [];
    }
    const reader = entry.createReader(), found = [];
    for (;;) {
      // A browser gives some entries of a folder at a time.
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []);
      if (!some.length) break;
      found.push(...some);
    }
    return (await Promise.all(found.map(read))).flat();
  }
  showFactors();
  show();
})();
