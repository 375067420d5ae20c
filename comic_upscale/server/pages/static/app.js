"use strict";
// What all pages share. Without it they still read: it adds the theme switch, local times and questions before changes.

const root = document.body.dataset.root;

// For scripts that are told that nobody has signed in: the way back leads to the page that somebody is on.
function signInAgain() {
  const back = location.pathname.slice(root.length) + location.search;
  location.assign(`${root}/sign-in?next=${encodeURIComponent(back)}&notice=expired`);
}

document.querySelectorAll("time[datetime]").forEach(localize);
setInterval(() => document.querySelectorAll("time[datetime]").forEach(localize), 30000);
document.addEventListener("htmx:load", (event) => event.detail.elt.querySelectorAll("time[datetime]").forEach(localize));

function localize(element) {
  const at = new Date(element.dateTime);
  const age = (Date.now() - at) / 1000;
  const words = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
  element.title = at.toLocaleString();
  if (age < 45) element.textContent = "just now";
  else if (age < 3600) element.textContent = words.format(-Math.round(age / 60), "minute");
  else if (age < 86400) element.textContent = words.format(-Math.round(age / 3600), "hour");
  else element.textContent = at.toLocaleDateString(undefined, { dateStyle: "medium" });
}

const theme = document.getElementById("theme");
if (theme) {
  const order = ["auto", "light", "dark"];
  const show = () => {
    const now = document.documentElement.dataset.theme || "auto";
    theme.textContent = { auto: "◐", light: "☀", dark: "☾" }[now];
    theme.setAttribute("aria-label", `Theme: ${now}. Change it`);
    theme.title = `Theme: ${now}`;
  };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "auto";
    const next = order[(order.indexOf(now) + 1) % order.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch { /* It lasts until the next page then. */ }
    show();
  });
  show();
}

// A second click while the answer of a form is on its way sends nothing. With Ctrl the answer goes to another tab.
let goesElsewhere = false;
document.addEventListener("click", (event) => { goesElsewhere = event.ctrlKey || event.metaKey || event.shiftKey; }, true);
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.sent) { event.preventDefault(); return; }
  const question = event.submitter?.dataset.confirm || form.dataset.confirm;
  if (question && !window.confirm(question)) { event.preventDefault(); return; }
  if (event.defaultPrevented || form.method !== "post" || goesElsewhere) return;
  form.dataset.sent = "yes";
  setTimeout(() => delete form.dataset.sent, 3000);
});
// A page that the browser kept and shows again has sent nothing yet. Its values may be older than those in force.
window.addEventListener("pageshow", (event) => {
  document.querySelectorAll("form[data-sent]").forEach((form) => delete form.dataset.sent);
  if (event.persisted && document.querySelector("input[name^='before.']")) location.reload();
});

// Most browsers keep what was typed in the page before.
document.querySelectorAll("button[data-back]").forEach((button) => {
  button.hidden = false;
  button.addEventListener("click", () => history.back());
});

// A menu closes by Escape and by a click beside it.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details.menu[open]");
  if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
});
document.addEventListener("click", (event) => {
  document.querySelectorAll("details.menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
});

// Parts that tell of what changes ask for themselves again, while somebody looks.
document.querySelectorAll("[data-refresh]").forEach((element) => {
  setInterval(() => {
    const part = document.getElementById(element.id);
    const isUsed = part.contains(document.activeElement) && document.activeElement.matches("input, select");
    if (!document.hidden && window.htmx && !isUsed) htmx.trigger(part, "refresh");
  }, Number(element.dataset.refresh) * 1000);
});

// A link to give away has the name of the host that this browser sees.
document.querySelectorAll("input[data-absolute]").forEach((input) => {
  input.value = new URL(input.value, location.href).href;
  input.addEventListener("focus", () => input.select());
});
