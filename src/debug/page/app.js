// The frame of the page: which of its parts is shown, what is said at its top.

import { badge, el, fill, name, say, STATE_NAMES } from "./dom.js";
import * as live from "./live.js";
import { proxiesPage } from "./proxies.js";
import { proxyPage } from "./proxy.js";
import { servicePage, servicesPage } from "./services.js";
import { changesPage } from "./changes.js";
import { sourcesPage } from "./sources.js";
import { picturePage } from "./picture.js";

const main = document.getElementById("main");
const connection = document.getElementById("connection");
let close = () => {};

const ROUTES = [
  [/^\/proxies\/(.+)$/, proxyPage, "Proxy"],
  [/^\/proxies$/, proxiesPage, "Who has what"],
  [/^\/services\/([^/]+)\/([^/]+)$/, servicePage, "Service"],
  [/^\/services$/, servicesPage, "Services"],
  [/^\/changes$/, changesPage, "Changes"],
  [/^\/sources$/, sourcesPage, "Sources"],
  [/^\/picture$/, picturePage, "Picture"],
];

let shownPath = null;

function route() {
  const [path, query = ""] = (location.hash.slice(1) || "/proxies").split("?");
  const wanted = ROUTES.find(([pattern]) => pattern.test(path));
  if (!wanted) {
    location.replace("#/proxies");
    return;
  }
  const [pattern, page, title] = wanted;
  const parts = path.match(pattern).slice(1).map(decode);
  for (const link of document.querySelectorAll("nav a")) {
    const own = link.getAttribute("href").slice(1);
    const isHere = path === own || path.startsWith(`${own}/`);
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title} – Pilothouse`;
  close();
  fill(main);
  close = page(main, parts, new URLSearchParams(query)) ?? (() => {});
  // Not at the first page: a reader begins at the top.
  if (shownPath !== null && shownPath !== path) {
    main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  shownPath = path;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function showSummary(summary) {
  const links = STATE_NAMES.map((state) => {
    const count = summary.states[state] ?? 0;
    return el("a", { href: `#/proxies?state=${encodeURIComponent(state)}`, class: count === 0 ? "none" : null },
      badge(state), el("b", null, String(count)));
  });
  fill(document.getElementById("summary"),
    el("a", { href: "#/proxies", class: "all" }, "proxies", el("b", null, String(summary.proxies))),
    links,
    summary.sources_stale > 0
      ? el("a", { href: "#/sources", class: "alarm" }, "watches that are behind", el("b", null, String(summary.sources_stale)))
      : null,
    // Of pilothouse dashboard, which asks several.
    (summary.unreachable ?? []).map((one) =>
      el("span", { class: "alarm", title: one.error }, "no answer from ", name(one.replica))),
    el("span", { class: "where" },
      "generation ", el("b", null, String(summary.generation ?? "–")), " at ", name(summary.replica)));
}

let lastSummary = "";
live.on("summary", (summary) => {
  const text = JSON.stringify(summary);
  // A link that has the focus must not be replaced by an equal one.
  if (text === lastSummary) return;
  lastSummary = text;
  const focused = document.activeElement?.closest?.("#summary a")?.getAttribute("href");
  showSummary(summary);
  if (focused) document.querySelector(`#summary a[href="${CSS.escape(focused)}"]`)?.focus();
});

live.on("state", ({ lost, since, wasLost }) => {
  document.body.classList.toggle("lost", lost);
  connection.className = lost ? "connection lost" : "connection";
  if (lost) {
    say(connection, `no answer from the server since ${since.toLocaleTimeString()}; what is shown is from then, trying again`);
  } else {
    say(connection, "live");
    if (wasLost) route();
  }
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

window.addEventListener("hashchange", route);
route();
live.start();
