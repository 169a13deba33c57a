// The picture: Kubernetes objects, the control plane, the proxies; and what travels between them.

import { ask, clock } from "./api.js";
import { el, fill, name, say, stateClass, svg, visible } from "./dom.js";
import { on } from "./live.js";
import { throttle } from "./rows.js";
import { Travel } from "./travel.js";

// Proxies that are drawn one by one; more are drawn as groups, by namespace.
const MAX_PROXIES = 24;
const MAX_GROUPS = 16;
const LOGGED = 40;
const ROW = 44;
const SHAPES = { "SYNCED": "✓", "STALE": "◔", "REJECTED": "✕", "NOT SENT": "○" };

export function picturePage(main) {
  const drawing = svg("svg", { class: "picture", role: "img", "aria-label": "Kubernetes objects, the control plane and the proxies" });
  const log = el("ol", { class: "log", "aria-label": "What happened, newest first" });
  const legend = el("p", { class: "legend" },
    el("span", { class: "mark change" }, "■"), " a change ", el("span", { class: "mark push" }, "●"), " a push ",
    el("span", { class: "mark ack" }, "✓"), " an ACK ", el("span", { class: "mark nack" }, "✕"), " a NACK");
  fill(main, el("h1", null, "Picture"),
    el("p", { class: "lead" }, "The control plane reads Kubernetes and tells proxies what the mesh looks like. Requests never pass through it: they go from proxy to proxy."),
    legend, drawing, el("h2", null, "What happened"), log);

  const nodes = new Map(); // By proxy's key: the line to it.
  const groups = new Map(); // By namespace, if there are too many to be drawn one by one.
  const travel = new Travel(drawing);
  const narrow = matchMedia("(max-width: 760px)");
  let changes = null;
  let drawn = "";

  async function load() {
    const [proxies, sources] = await Promise.all([ask("/debug/proxies", { limit: MAX_PROXIES }), ask("/debug/sourcez")]);
    draw(proxies, sources);
  }

  function draw(proxies, sources) {
    const many = proxies.matched > MAX_PROXIES;
    const boxes = many ? grouped(proxies) : proxies.proxies.map((one) => ({
      key: one.key, title: one.name, state: one.state, note: [one.kind, one.zone].filter(Boolean).join(" · "),
    })).sort((a, b) => a.title.localeCompare(b.title));
    const watches = sources.watches;
    const text = JSON.stringify([boxes, watches.map((one) => [one.name, one.lastError]), sources.services, sources.endpointSlices, proxies.generation]);
    if (text === drawn) return;
    drawn = text;
    const height = narrow.matches ? 370 + Math.max(boxes.length, 1) * ROW : Math.max(300, 60 + Math.max(boxes.length, 1) * ROW);
    const middle = height / 2;
    const places = narrow.matches
      ? { width: 400, objects: [20, 10], control: [20, 190], change: "M200 150 V190", proxies: [60, 360 + ROW / 2] }
      : { width: 1200, objects: [60, middle - 70], control: [480, middle - 70], change: `M320 ${middle} H480`,
        proxies: [860, 30 + (height - 60 - boxes.length * ROW) / 2 + ROW / 2] };
    drawing.setAttribute("viewBox", `0 0 ${places.width} ${height}`);
    nodes.clear();
    groups.clear();
    changes = svg("path", { d: places.change });
    const lines = svg("g", { class: "lines" }, changes);
    const shapes = [
      box(places.objects, narrow.matches ? 360 : 260, "objects", [
        ["Kubernetes objects", "title"], [`${sources.services} Services`, ""], [`${sources.endpointSlices} EndpointSlices`, ""],
        [watchWords(watches), watches.some((one) => one.lastError || !one.synced) ? "bad" : "quiet"],
      ]),
      box(places.control, narrow.matches ? 360 : 220, "control", [
        ["Control plane", "title"], [proxies.replica, ""], [`generation ${proxies.generation ?? "–"}`, ""],
        [proxies.total === 1 ? "1 proxy" : `${proxies.total} proxies`, "quiet"],
      ]),
    ];
    boxes.forEach((one, at) => {
      const x = places.proxies[0];
      const y = places.proxies[1] + at * ROW;
      const line = svg("path", { d: narrow.matches ? `M36 330 V${y - 8} Q36 ${y} 44 ${y} H${x}`
        : `M700 ${middle} C780 ${middle} 780 ${y} ${x} ${y}` });
      lines.append(line);
      if (one.group !== undefined) groups.set(one.group, line);
      else nodes.set(one.key, line);
      shapes.push(proxyBox(one, x, y));
    });
    if (boxes.length === 0) shapes.push(words(...places.proxies, "no proxy is connected", "quiet"));
    drawing.replaceChildren(lines, ...shapes);
    travel.raise();
  }

  function grouped(proxies) {
    const boxes = proxies.namespaces.slice(0, MAX_GROUPS).map((one) => ({ group: one.name, title: one.name, note: `${one.proxies} proxies`, state: null }));
    const counted = proxies.namespaces.slice(0, MAX_GROUPS).reduce((sum, one) => sum + one.proxies, 0);
    if (counted < proxies.total) boxes.push({ group: "", title: "others", note: `${proxies.total - counted} proxies`, state: null });
    const worst = ["REJECTED", "STALE", "NOT SENT"].filter((state) => proxies.states[state] > 0);
    worst.forEach((state) => boxes.push({ group: `state:${state}`, title: state, note: `${proxies.states[state]} proxies`, state }));
    return boxes;
  }

  /** The line to a proxy; its namespace is what follows the last dot of its name. */
  function at(item) {
    if (nodes.has(item.proxy)) return nodes.get(item.proxy);
    const namespace = (item.name ?? "").split(".").pop();
    return groups.get(namespace) ?? groups.get("");
  }

  function show(items) {
    for (const item of items) {
      if (item.more) continue;
      const line = item.what === "change" ? changes : at(item);
      if (!line) continue;
      // What was sent is seen to arrive before what is answered to it.
      if (item.what === "change") travel.go("change", line, false, 0);
      if (item.what === "push") travel.go("push", line, false, 1);
      if (item.what === "ack") travel.go("ack", line, true, 2);
      if (item.what === "nack") travel.go("nack", line, true, 2);
    }
    const inTime = [...items].sort((a, b) => (a.at ?? "~").localeCompare(b.at ?? "~"));
    for (const item of inTime) log.prepend(entry(item));
    while (log.children.length > LOGGED) log.lastElementChild.remove();
  }

  const refresh = throttle(load, 250);
  const failed = (error) => say(legend, visible(error.message));
  load().catch(failed);
  const turned = () => {
    drawn = "";
    refresh();
  };
  narrow.addEventListener("change", turned);
  const ends = [on("traffic", (items) => {
    if (items.some((item) => ["connect", "disconnect"].includes(item.what))) refresh();
    show(items);
  }), on("summary", refresh)];
  return () => {
    ends.forEach((end) => end());
    narrow.removeEventListener("change", turned);
    travel.close();
  };
}

function entry(item) {
  if (item.more) return el("li", null, `and ${item.more} more`);
  const times = item.count > 1 ? ` (${item.count} times)` : "";
  const time = el("time", null, clock(item.at));
  const mark = { change: "■", push: "●", ack: "✓", nack: "✕", connect: "→", disconnect: "←" }[item.what] ?? "·";
  const sign = el("span", { class: `mark ${item.what}`, "aria-hidden": "true" }, mark);
  const who = item.name ? name(item.name) : null;
  const said = {
    change: ["a new snapshot was published", times],
    push: [`${item.type} sent to `, who, times],
    ack: [who, ` acknowledged ${item.type}`, times],
    nack: [who, ` rejected ${item.type}`, times],
    connect: [who, " connected"],
    disconnect: [who, " has gone"],
  }[item.what] ?? [visible(item.what), " ", who];
  return el("li", { class: item.what }, time, " ", sign, " ", ...said);
}

function watchWords(watches) {
  const bad = watches.filter((one) => one.lastError || !one.synced).length;
  return bad > 0 ? `${bad} of ${watches.length} watches behind` : `${watches.length} ${watches.length === 1 ? "watch" : "watches"}, all heard from`;
}

function words(x, y, text, className) {
  return svg("text", { x, y, class: className }, text);
}

function short(text, length) {
  const shown = visible(text);
  return shown.length > length ? `${shown.slice(0, length - 1)}…` : shown;
}

function box([x, y], width, className, lines) {
  const group = svg("g", { class: `box ${className}` }, svg("rect", { x, y, width, height: 140, rx: 10 }));
  lines.forEach(([text, own], at) => group.append(words(x + 20, y + 34 + at * 28, short(text, 30), own)));
  return group;
}

function proxyBox(one, x, y) {
  const shape = SHAPES[one.state] ?? "";
  const inner = svg("g", { class: `box proxy ${one.state ? stateClass(one.state) : ""}` },
    svg("title", {}, visible(`${one.title}: ${one.state ?? ""} ${one.note}`)),
    svg("rect", { x, y: y - ROW / 2 + 4, width: 320, height: ROW - 8, rx: 8 }),
    words(x + 14, y + 6, shape, "shape"), words(x + 36, y - 1, short(one.title, 34), "title"),
    words(x + 36, y + 14, short(one.note, 44), "quiet"));
  if (one.key === undefined) return inner;
  return svg("a", { href: `#/proxies/${encodeURIComponent(one.key)}` }, inner);
}
