"use strict";
// The form for weights: they are sent as a stream, with their progress, and refused in words.
(() => {
  const form = document.getElementById("weights"), by = (id) => document.getElementById(`weights-${id}`);
  let request = null;
  function say(text) { by("problem").textContent = text; by("problem").hidden = !text; }

  by("file").addEventListener("change", () => {
    const file = by("file").files[0];
    if (file && !by("name").value) by("name").value = file.name.replace(/\.[^.]*$/, "").replace(/[^a-zA-Z0-9._-]+/g, "-").replace(/^[^a-zA-Z0-9]+/, "").slice(0, 64);
  });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const file = by("file").files[0];
    if (!file || request) return;
    const body = new FormData();
    body.append("name", by("name").value.trim());
    if (by("hash").value.trim()) body.append("sha256", by("hash").value.trim());
    body.append("file", file, file.name);
    request = new XMLHttpRequest();
    request.open("POST", `${root}/api/v1/admin/models`);
    request.responseType = "json";
    request.setRequestHeader("X-CSRF-Token", document.body.dataset.csrf);
    const end = (text) => { request = null; by("send").disabled = false; by("bar").hidden = true; by("state").textContent = ""; say(text); };
    request.upload.addEventListener("progress", (event) => {
      by("bar").value = event.loaded / event.total;
      by("state").textContent = event.loaded < event.total ? `${Math.round(event.loaded / event.total * 100)} %` : "The server loads the weights to check them …";
    });
    request.addEventListener("load", () => {
      const answer = request.response;
      if (request.status === 201) location.assign(`${root}/admin/models?notice=registered`);
      else if (request.status === 401) signInAgain();
      else end(answer?.error?.message || `The server answered ${request.status}. Try again.`);
    });
    request.addEventListener("error", () => end("The connection broke. Send the file again."));
    say(""); by("send").disabled = true; by("bar").hidden = false;
    request.send(body);
  });
})();
