"use strict";
// The form of a trial: one page, and two to four models.
(() => {
  const form = document.getElementById("try"), by = (id) => document.getElementById(id);
  const { maxBytes, fewest, most } = form.dataset;
  let page = null, request = null;

  const models = () => [...form.querySelectorAll('[name="models"]:checked')].map((box) => box.value);
  function say(text) { by("problem").textContent = text; by("problem").hidden = !text; }

  function show() {
    const count = models().length, isFine = count >= Number(fewest) && count <= Number(most);
    by("send").disabled = !page || !isFine || Boolean(request);
    by("send").textContent = !page ? "Choose a page first" : isFine ? `Try ${count} models` : `Choose ${fewest} to ${most} models`;
  }

  function choose(file) {
    if (!file) return;
    say("");
    if (!file.size) return say(`${file.name} is empty: choose another page.`);
    if (file.size > Number(maxBytes)) return say(`${file.name} is too large: the limit is ${Math.floor(Number(maxBytes) / 1e6)} MB.`);
    page = file;
    const image = new Image(), name = document.createElement("span");
    image.alt = ""; image.className = "small-page";
    image.src = URL.createObjectURL(file);
    image.addEventListener("error", () => image.remove());
    name.textContent = file.name; name.className = "break";
    by("chosen").replaceChildren(image, name);
    by("chosen").hidden = false;
    show();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!page || request) return;
    const body = new FormData();
    body.append("models", models().join(","));
    body.append("factor", form.querySelector('[name="factor"]:checked').value);
    body.append("file", page, page.name);
    request = new XMLHttpRequest();
    request.open("POST", `${root}/api/v1/trials`);
    request.responseType = "json";
    if (document.body.dataset.csrf) request.setRequestHeader("X-CSRF-Token", document.body.dataset.csrf);
    const fail = (text) => { request = null; by("sending").hidden = true; say(text); show(); };
    request.upload.addEventListener("progress", (event) => {
      by("bar").value = event.loaded / event.total;
      by("sent").textContent = event.loaded < event.total ? "Sending …" : "The server stores the page …";
    });
    request.addEventListener("load", () => {
      const answer = request.response;
      if (request.status === 202 && answer) location.assign(`${root}/jobs/${answer.job_id}`);
      else if (request.status === 401) signInAgain();
      else fail(answer?.error?.message || `The server answered ${request.status}. Try again.`);
    });
    request.addEventListener("error", () => fail("The connection broke. Send the page again."));
    say(""); by("sending").hidden = false; show();
    request.send(body);
  });

  form.addEventListener("change", (event) => { if (event.target.id === "page") choose(event.target.files[0]); else show(); });
  by("pick").addEventListener("click", () => by("page").click());
  addEventListener("dragover", (event) => { event.preventDefault(); by("drop").classList.add("over"); });
  addEventListener("dragleave", () => by("drop").classList.remove("over"));
  addEventListener("drop", (event) => { event.preventDefault(); by("drop").classList.remove("over"); choose(event.dataTransfer.files[0]); });
  show();
})();
