// Changes of the source, and whether every proxy has them.

import { age, ask, clock, Gone, secondsSince, span } from "./api.js";
import { el, fill, name, say, visible } from "./dom.js";
import { on } from "./live.js";
import { Rows, throttle } from "./rows.js";

const REFRESH_MS = 300;

export function changesPage(main, _parts, query) {
  let wanted = query.get("search") ?? "";
  const count = el("p", { class: "count", role: "status", "aria-live": "polite" });
  const search = el("input", {
    type: "search", value: wanted, placeholder: "kind, namespace or name", "aria-label": "search changes",
    oninput: () => {
      wanted = search.value;
      rows.reset().catch(failed);
    },
  });
  const rows = new Rows({
    label: "Changes",
    className: "changes",
    columns: ["seen", "what", "resourceVersion", "published", "everywhere", "stragglers"].map((title) => ({ title })),
    fetchPage: async (offset, limit) => {
      const answer = await ask("/debug/changes", { search: wanted, offset, limit });
      const total = answer.matched;
      say(count, `generation ${answer.generation ?? "–"}, ${total} changes`);
      return { total, rows: answer.changes };
    },
    make: () => el("div"),
    show,
    empty: () => wanted ? "No change fits this search." : "Nothing has changed yet.",
  });
  function failed(error) {
    say(count, error instanceof Gone ? "not available: this server keeps no list of changes" : `not known: ${visible(error.message)}`);
  }
  fill(main, el("h1", null, "Changes"),
    el("form", { class: "filter", role: "search", onsubmit: (event) => event.preventDefault() }, search, count), rows.element);
  rows.refresh().catch(failed);
  const refresh = throttle(() => rows.refresh(), REFRESH_MS);
  const ends = [on("summary", refresh), on("traffic", refresh)];
  const timer = setInterval(() => rows.draw(), 1000);
  return () => {
    ends.forEach((end) => end());
    clearInterval(timer);
    rows.close();
  };
}

function show(element, row) {
  const text = JSON.stringify([row, age(row.seen)]);
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  const cell = (className, ...children) => el("span", { role: "cell", class: className }, ...children);
  const isService = row.kind === "Service";
  const object = [row.namespace, row.name].filter(Boolean).join("/");
  const label = [el("b", null, visible(row.kind)), " ", name(object || "all"), " ", el("small", null, visible(row.action))];
  element.className = `row ${row.stragglers_total > 0 ? "stale" : ""}`;
  fill(element,
    cell("", clock(row.seen), el("small", null, `${age(row.seen)} ago`)),
    cell("who", isService && row.namespace && row.name && row.action === "applied"
      ? el("a", { class: "name", href: `#/services/${encodeURIComponent(row.namespace)}/${encodeURIComponent(row.name)}` }, label) : label),
    cell("number", name(row.resource_version)),
    cell("", row.published ? `after ${between(row.seen, row.published)}` : "not yet",
      row.generation !== null && row.generation !== undefined ? el("small", null, `generation ${row.generation}`) : null),
    cell("everywhere", everywhere(row)),
    cell("", stragglers(row)));
}

function between(from, to) {
  return span(Math.max(0, secondsSince(from) - secondsSince(to)));
}

function everywhere(row) {
  if (!row.published) return "–";
  if (row.proxies === 0) return "no proxy is connected";
  const bar = el("progress", { max: row.proxies, value: row.acknowledged, "aria-label": "acknowledged" });
  const words = row.acknowledged >= row.proxies
    ? `✓ all ${row.proxies}${row.last_acknowledged ? ` after ${between(row.seen, row.last_acknowledged)}` : ""}`
    : `${row.acknowledged} of ${row.proxies}`;
  return [bar, el("small", null, words)];
}

function stragglers(row) {
  if (!row.stragglers_total) return "–";
  const shown = row.stragglers.slice(0, 2).flatMap((one, at) => [at ? ", " : "",
    el("a", { href: `#/proxies/${encodeURIComponent(one.key)}` }, name(one.name))]);
  const more = row.stragglers_total - Math.min(2, row.stragglers.length);
  return [el("b", null, `${row.stragglers_total}: `), ...shown, more > 0 ? ` and ${more} more` : ""];
}
