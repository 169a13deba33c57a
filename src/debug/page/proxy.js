// One proxy: what it rejected and in which words, what it subscribes to, what it was sent.

import { age, ask, clock, Gone } from "./api.js";
import { badge, el, facts, fill, name, section, table, visible } from "./dom.js";
import { on } from "./live.js";
import { throttle } from "./rows.js";

const TYPES = ["CDS", "EDS", "LDS", "RDS"];
const KINDS = { CDS: "clusters", EDS: "endpoints", LDS: "listeners", RDS: "routes" };
const REFRESH_MS = 250;
const NAMES = 200;

export function proxyPage(main, [key]) {
  const path = `/debug/proxies/${encodeURIComponent(key)}`;
  const head = el("div", { "aria-live": "polite" });
  const rejected = el("div", { role: "alert" });
  const types = el("div");
  const history = el("div");
  const subscriptions = el("div");
  const sent = resources(path);
  const back = el("p", { class: "back" }, el("a", { href: "#/proxies" }, "← all proxies"));
  fill(main, back, head, rejected, types, sent.element, history, subscriptions);
  let words = "";

  async function load() {
    let proxy;
    try {
      proxy = await ask(path);
    } catch (error) {
      if (!(error instanceof Gone)) throw error;
      fill(head, el("h1", null, "This proxy has gone"), el("p", { class: "note" }, visible(error.message)));
      for (const part of [rejected, types, sent.element, history, subscriptions]) fill(part);
      return;
    }
    fill(head, el("h1", null, name(proxy.name), " ", badge(proxy.state)), facts([
      ["node id", name(proxy.node_id)], ["kind", proxy.kind], ["namespace", proxy.namespace && name(proxy.namespace)],
      ["zone", proxy.zone && name(proxy.zone)], ["Envoy", proxy.version && name(proxy.version)], ["replica", name(proxy.replica)],
      ["address", proxy.address], ["identity", proxy.identity && name(proxy.identity)], ["protocol", proxy.protocol], ["discovery", discovery(proxy)], ["connected", `${age(proxy.connected)} ago`],
      ["view", proxy.view && name(proxy.view)],
      ["acknowledged generation", proxy.generation_acknowledged], ["probe", proxy.probe ? "yes: not the proxy itself" : null],
    ]));
    const said = TYPES.filter((type) => proxy.types[type]?.error);
    const text = JSON.stringify(said.map((type) => proxy.types[type]));
    if (text !== words) {
      words = text;
      fill(rejected, said.map((type) => rejection(type, proxy.types[type], sent.open)));
    }
    fill(types, section("By type", table("What was sent and answered, by type",
      ["type", "state", "responses", "ACKs", "NACKs", "resources", "last sent", "last ACK", "version"],
      TYPES.filter((type) => proxy.types[type]).map((type) => {
        const one = proxy.types[type];
        const waits = one.state === "STALE" && one.since ? age(one.since) : null;
        return [type, badge(one.state, waits), one.sent, one.acknowledged, one.rejected, one.resources,
          clock(one.last_sent), clock(one.last_acknowledged), el("code", null, one.version ?? "–")];
      }))));
    fill(history, section("The last responses and answers", (proxy.history ?? []).length === 0
      ? el("p", { class: "note" }, "Nothing yet.")
      : table("Newest first", ["time", "type", "what", "resources", "removed", "bytes", "generation", "nonce", "words"],
        proxy.history.map((one) => [clock(one.at), one.type, what(one.what), one.resources ?? "", one.removed ?? "",
          one.bytes ?? "", one.generation ?? "", one.nonce ?? "", one.error ? name(one.error) : ""]))));
    const open = new Set([...subscriptions.querySelectorAll("details[open]")].map((one) => one.dataset.type));
    fill(subscriptions, section("What it subscribes to", TYPES.map((type) => {
      const one = proxy.types[type]?.subscription;
      if (!one) return el("p", { class: "note" }, `${type}: nothing`);
      const all = one.wildcard ? "everything" : `${one.names_total} ${KINDS[type]}`;
      const more = one.names_total > one.names.length ? el("li", null, `and ${one.names_total - one.names.length} more`) : null;
      return el("details", { "data-type": type, open: open.has(type) }, el("summary", null, `${type}: ${all}`),
        el("ul", { class: "names" }, one.names.map((each) => el("li", null, name(each))), more));
    })));
  }

  const failed = (error) => fill(head, el("h1", null, "Proxy"), el("p", { class: "note" }, visible(error.message)));
  load().then(() => sent.show("CDS")).catch(failed);
  const refresh = throttle(load, REFRESH_MS);
  const isAbout = (items) => items.some((item) => item.more || item.proxy === key || key.endsWith(`:${item.proxy}`));
  const ends = [on("traffic", (items) => { if (isAbout(items)) refresh(); })];
  const clockTimer = setInterval(refresh, 5000);
  return () => {
    ends.forEach((end) => end());
    clearInterval(clockTimer);
  };
}

/** How it gets its clusters; on demand, how many it has named of how many. */
function discovery({ discovery: mode, clusters, uses_unknown: unused }) {
  const parts = [mode];
  if (clusters) parts.push(`${clusters.subscribed} of ${clusters.available} clusters named`);
  if (clusters?.unknown) parts.push(`${clusters.unknown} unknown`);
  if (unused?.length) parts.push(`said to be used and unknown: ${unused.join(" ")}`);
  return mode ? visible(parts.join(", ")) : null;
}

function what(word) {
  const [className, label] = { response: ["push", "response ↓"], ack: ["synced", "✓ ACK"], nack: ["rejected", "✕ NACK"] }[word] ?? ["", word];
  return el("span", { class: `state ${className}` }, label);
}

function rejection(type, status, open) {
  return el("section", { class: "rejection" },
    el("h2", null, `✕ ${type} was rejected `, el("small", null, `at ${clock(status.error_at)}, ${status.rejected === 1 ? "once" : `${status.rejected} times`} in all`)),
    el("pre", { class: "words", dir: "auto" }, visible(status.error, true)),
    (status.about ?? []).length === 0 ? null : el("p", null, "About: ", status.about.map((one) =>
      el("button", { type: "button", class: "link", onclick: () => open(type, one) }, name(one)))));
}

/** What was sent, one resource at a time. */
function resources(path) {
  const names = el("div", { class: "names" });
  const shown = el("div", { class: "resource", "aria-live": "polite" });
  const search = el("input", { type: "search", placeholder: "a part of a name", "aria-label": "search resources",
    oninput: () => list() });
  const tabs = TYPES.map((type) => el("button", { type: "button", onclick: () => show(type) }, `${type} ${KINDS[type]}`));
  const element = section("What it was sent",
    el("div", { class: "filter" }, tabs, search), el("div", { class: "browser" }, names, shown));
  let type = "CDS";
  let asked = 0;

  async function list() {
    const number = asked += 1;
    try {
      const answer = await ask(`${path}/resources`, { type, search: search.value, limit: NAMES });
      if (number !== asked) return;
      const more = answer.total > answer.names.length ? el("p", { class: "note" }, `and ${answer.total - answer.names.length} more: search`) : null;
      fill(names, answer.total === 0 ? el("p", { class: "note" }, `No ${KINDS[type]}.`) : null,
        el("ul", null, answer.names.map((one) =>
          el("li", null, el("button", { type: "button", class: "link", onclick: () => one_(one) }, name(one))))), more);
    } catch (error) {
      if (number === asked) fill(names, el("p", { class: "note" }, visible(error.message)));
    }
  }

  async function one_(wanted) {
    try {
      const answer = await ask(`${path}/resources`, { type, name: wanted });
      fill(shown, el("h3", null, name(answer.name), " ", el("small", null, `version ${answer.version}`)),
        el("pre", { tabindex: "0" }, visible(JSON.stringify(answer.resource, null, 2), true)));
    } catch (error) {
      fill(shown, el("p", { class: "note" }, visible(error.message)));
    }
  }

  function show(wanted) {
    type = wanted;
    tabs.forEach((tab, at) => tab.setAttribute("aria-pressed", String(TYPES[at] === type)));
    fill(shown, el("p", { class: "note" }, "Choose a resource."));
    return list();
  }

  return {
    element,
    show,
    open: (wanted, resource) => {
      show(wanted);
      one_(resource);
      element.scrollIntoView({ block: "start" });
    },
  };
}
