"use strict";
// The page of a job that has not ended: what the server sends as events is shown at once.
(() => {
  const first = document.getElementById("state");
  if (!first?.dataset.events) return;
  const began = { done: null, at: 0 };
  let asked = 0;

  const seconds = (count) => count < 60 ? `${Math.round(count)} s` : count < 3600 ? `${Math.round(count / 60)} min` : `${(count / 3600).toFixed(1)} h`;

  // The pages come a little later than their number: they are asked for until all are here.
  // A page without pictures never comes: after some answers without one, only the next finished page asks again.
  let expected = 0, asking = 0, without = 0;
  async function askForPages() {
    asking = 0;
    const section = document.getElementById("pictures"), grid = section.querySelector(".grid");
    const count = Number(section.dataset.count);
    if (document.hidden) { asking = setTimeout(askForPages, 3000); return; }
    try {
      const answer = await fetch(`${section.dataset.new}?after=${count}`, { headers: { "HX-Request": "true" } });
      without = answer.status === 204 ? without + 1 : 0;
      if (answer.status === 200) {
        const box = document.createElement("template");
        box.innerHTML = await answer.text();
        const items = [...box.content.querySelectorAll("li")];
        section.dataset.count = String(count + items.length);
        section.hidden = false;
        for (const item of items) {
          // Suspect ones come first, then the latest.
          const suspects = grid.querySelectorAll("[data-suspect]"), last = suspects[suspects.length - 1];
          if ("append" in item.dataset) grid.append(item);
          else if ("suspect" in item.dataset || !last) grid.prepend(item);
          else last.after(item);
        }
        const others = grid.querySelectorAll("li:not([data-suspect])");
        for (const old of [...others].slice(120)) old.remove();
        const suspects = grid.querySelectorAll("[data-suspect]").length, badge = document.getElementById("suspects");
        if (badge) { badge.hidden = !suspects; badge.textContent = `${suspects} to look at`; }
      }
    } catch { /* The connection comes back, or the page is loaded again. */ }
    if (Number(section.dataset.count) < expected && !asking && without < 10) asking = setTimeout(askForPages, 3000);
  }

  function show(job) {
    const state = document.getElementById("state"), by = (id) => document.getElementById(id);
    if (["completed", "failed", "canceled"].includes(job.status)) {
      // The page of an ended job has other parts.
      location.reload();
      return;
    }
    if (job.status !== state.dataset.status || String(job.cancel_requested) !== state.dataset.canceling || (job.model || "") !== state.dataset.model || String(job.failures.length) !== state.dataset.failed) {
      // A burst of changes asks once.
      clearTimeout(asked);
      asked = setTimeout(() => htmx.trigger(by("state"), "refresh"), 200);
      return;
    }
    const { total, done, failed } = job.pages;
    if (job.status !== "running" || !total) return;
    // Of pages that take minutes. The server writes the same words.
    const parts = job.in_progress.map((page) => `; ${page.source}: ${page.unit} ${Math.min(Math.floor(page.done) + 1, page.total)} of ${page.total}`).join("");
    by("pages").textContent = `${done} of ${total} ${state.dataset.thing}${total === 1 ? "" : "s"}${failed ? `, ${failed} failed` : ""}${parts}`;
    by("progress").value = job.progress;
    if (done !== expected) without = 0;
    expected = done;
    // All viewers hear of a page at the same moment. They ask for it one after the other.
    if (!asking && without < 10) asking = setTimeout(askForPages, 1000 + Math.random() * 1000);
    if (began.done === null) Object.assign(began, { done: done + failed, at: Date.now() });
    const pages = done + failed - began.done, time = (Date.now() - began.at) / 1000;
    // Pages that an earlier worker finished say nothing about the rate of this one.
    if (pages > 0 && time > 1) {
      const rate = pages / time, rest = (total - done - failed) / rate;
      const words = rate >= 1 ? `${rate.toFixed(1)} pages/s` : `${(rate * 60).toFixed(rate < 1 / 6 ? 1 : 0)} pages/min`;
      by("left").textContent = `${words}, ${rest < 1 ? "less than a second" : `about ${seconds(rest)}`} left`;
    }
  }

  // A time that is left means nothing while nobody knows. A stream that ends by itself is back before that is said.
  let source, lost = 0;
  function wonder() {
    lost ||= setTimeout(() => {
      lost = -1;
      document.getElementById("left").textContent = "Connection lost, trying again";
    }, 3000);
  }
  function isBack() {
    clearTimeout(lost);
    if (lost === -1) htmx.trigger(document.getElementById("state"), "refresh");
    lost = 0;
  }
  function follow() {
    source = new EventSource(first.dataset.events);
    source.addEventListener("open", isBack);
    source.addEventListener("job", (event) => show(JSON.parse(event.data)));
    // The browser gives up after an answer that is no stream: the server starts again behind a proxy, or the job was
    // deleted meanwhile.
    source.addEventListener("error", async () => {
      wonder();
      if (source.readyState !== EventSource.CLOSED) return;
      const answer = await fetch(location.href).catch(() => null);
      if (answer?.status === 404) location.reload();
      else setTimeout(follow, 5000);
    });
  }
  follow();
  // No event tells that other jobs have gone, or that the queue was paused.
  setInterval(() => {
    const state = document.getElementById("state");
    if (state.dataset.status === "queued" && !document.hidden) htmx.trigger(state, "refresh");
  }, 15000);
  addEventListener("pagehide", () => source.close());
})();
