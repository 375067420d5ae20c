"use strict";
// The log of the server: each new line is shown at once, the latest first.
(() => {
  const log = document.getElementById("server-log"), rows = log.querySelector("tbody");
  const colors = { error: "bad", critical: "bad", warning: "warn" };

  function show({ level, line }) {
    const row = rows.insertRow(0), badge = document.createElement("span"), code = document.createElement("code");
    badge.className = `badge ${colors[level] || ""}`;
    badge.textContent = level;
    code.textContent = line;
    row.insertCell().append(badge);
    const cell = row.insertCell();
    cell.className = "break small";
    cell.append(code);
    while (rows.rows.length > Number(log.dataset.most)) rows.deleteRow(-1);
    log.hidden = false;
    document.getElementById("none").hidden = true;
  }

  // After a break, the browser asks for the lines after the last one that it got. It gives up for good after an answer
  // that is no stream, such as that of a proxy while the server starts again.
  let source, address = log.dataset.events;
  function follow() {
    source = new EventSource(address);
    source.addEventListener("line", (event) => {
      address = address.replace(/after=\d+/, `after=${event.lastEventId}`);
      show(JSON.parse(event.data));
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(follow, 5000);
    });
  }
  follow();
  addEventListener("pagehide", () => source.close());
})();
