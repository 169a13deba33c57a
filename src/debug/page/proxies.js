// Who has what: a row a proxy, what is wrong first.

import { age, ask } from "./api.js";
import { badge, el, fill, name, say, stateClass, STATE_NAMES, visible } from "./dom.js";
import { on } from "./live.js";
import { Rows, throttle } from "./rows.js";

const TYPES = ["CDS", "EDS", "LDS", "RDS"];
const REFRESH_MS = 250;

export function proxiesPage(main, _parts, query) {
  const filter = Object.fromEntries(["search", "state", "namespace", "kind"].map((key) => [key, query.get(key) ?? ""]));
  const count = el("p", { class: "count", role: "status", "aria-live": "polite" });
  const namespace = choice("namespace", "every namespace");
  const kind = choice("kind", "every kind");
  const state = choice("state", "every state");
  options(state, STATE_NAMES.map((one) => [one, one]), filter.state);
  const search = el("input", {
    type: "search", value: filter.search, placeholder: "name, node id, zone, version", "aria-label": "search proxies",
    oninput: () => change("search", search.value),
  });

  function choice(key, all) {
    return el("select", {
      "aria-label": key, "data-all": all, onchange: (event) => change(key, event.target.value),
    });
  }

  function options(select, pairs, chosen) {
    const wanted = [["", select.dataset.all], ...pairs];
    // One that is chosen stays, though there may be none of it at the moment.
    if (chosen && !pairs.some(([value]) => value === chosen)) wanted.push([chosen, chosen]);
    const text = JSON.stringify(wanted);
    if (select.dataset.options === text) return;
    select.dataset.options = text;
    fill(select, wanted.map(([value, label]) => el("option", { value }, visible(label))));
    select.value = chosen;
  }

  function change(key, value) {
    filter[key] = value;
    const set = new URLSearchParams(Object.entries(filter).filter(([, one]) => one));
    const text = set.toString();
    history.replaceState(null, "", text ? `#/proxies?${text}` : "#/proxies");
    rows.reset().catch(failed);
  }

  const rows = new Rows({
    label: "Proxies",
    className: "proxies",
    columns: [
      { title: "state" }, { title: "proxy" }, ...TYPES.map((title) => ({ title })),
      { title: "Envoy", class: "wide" }, { title: "replica", class: "wide" }, { title: "connected", class: "wide" },
    ],
    fetchPage: async (offset, limit) => {
      const answer = await ask("/debug/proxies", { ...filter, offset, limit });
      options(namespace, answer.namespaces.map((one) => [one.name, `${one.name} (${one.proxies})`]), filter.namespace);
      options(kind, answer.kinds.map((one) => [one.name, `${one.name} (${one.proxies})`]), filter.kind);
      say(count, answer.matched === answer.total ? counted(answer.total) : `${answer.matched} of ${counted(answer.total)}`);
      return { total: answer.matched, rows: answer.proxies };
    },
    make: () => el("div"),
    show,
    empty: () => Object.values(filter).some(Boolean) ? "No proxy fits this search." : "No proxy is connected.",
  });

  function failed(error) {
    say(count, `not known: ${visible(error.message)}`);
  }

  fill(main,
    el("h1", null, "Who has what"),
    el("form", { class: "filter", role: "search", onsubmit: (event) => event.preventDefault() },
      search, state, namespace, kind, count),
    rows.element);
  rows.refresh().catch(failed);
  const refresh = throttle(() => rows.refresh(), REFRESH_MS);
  const ends = [on("summary", refresh), on("traffic", refresh)];
  // Ages grow by themselves.
  const clock = setInterval(() => rows.draw(), 1000);
  return () => {
    ends.forEach((end) => end());
    clearInterval(clock);
    rows.close();
  };
}

function counted(number) {
  return number === 1 ? "1 proxy" : `${number} proxies`;
}

/** What a row shows, as text: a row that has not changed is not made again. */
function show(element, row) {
  const ages = TYPES.map((type) => waiting(row.types[type]));
  const text = JSON.stringify([row, ages, age(row.connected)]);
  if (element.dataset.text === text) return;
  const focused = element.contains(document.activeElement);
  element.dataset.text = text;
  element.dataset.key = row.key;
  element.className = `row ${stateClass(row.state)}`;
  const link = el("a", { href: `#/proxies/${encodeURIComponent(row.key)}`, class: "name" }, name(row.name));
  const place = [row.kind, row.namespace, row.zone].filter(Boolean);
  fill(element,
    cell("verdict", badge(row.state)),
    cell("who", link,
      el("small", null, place.flatMap((part, at) => at ? [" · ", name(part)] : [name(part)]), row.probe ? " · probe" : null)),
    TYPES.map((type, at) => typeCell(type, row.types[type], ages[at])),
    cell("wide", name(row.version)),
    cell("wide", name(row.replica)),
    cell("wide number", age(row.connected)));
  if (focused) link.focus({ preventScroll: true });
}

function cell(className, ...children) {
  return el("span", { role: "cell", class: className }, ...children);
}

/** How long a response has not been answered. */
function waiting(status) {
  return status?.state === "STALE" && status.since ? age(status.since) : "";
}

function typeCell(type, status, stale) {
  if (!status) return cell("type", el("span", { class: "label" }, type), "–");
  const counts = `${status.sent} sent, ${status.acknowledged} ACK, ${status.rejected} NACK`;
  return el("span", { role: "cell", class: "type", title: `${type}: ${counts}, ${status.resources} resources` },
    el("span", { class: "label" }, type),
    badge(status.state, stale),
    el("small", { class: "counts" }, `${status.sent} ↓ ${status.acknowledged} ✓`,
      status.rejected > 0 ? el("b", null, ` ${status.rejected} ✕`) : null),
    el("span", { class: "spoken" }, counts));
}
