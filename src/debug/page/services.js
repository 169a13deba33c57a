// Services: what they are, which endpoints are left out and why, what a proxy is sent.

import { ask, Gone } from "./api.js";
import { el, facts, fill, name, say, section, table, visible } from "./dom.js";
import { on } from "./live.js";
import { Rows, throttle } from "./rows.js";

const REFRESH_MS = 500;

export function servicesPage(main, _parts, query) {
  let wanted = query.get("search") ?? "";
  const count = el("p", { class: "count", role: "status", "aria-live": "polite" });
  const search = el("input", {
    type: "search", value: wanted, placeholder: "a part of a name", "aria-label": "search services",
    oninput: () => {
      wanted = search.value;
      const text = new URLSearchParams({ search: wanted }).toString();
      history.replaceState(null, "", wanted ? `#/services?${text}` : "#/services");
      rows.reset().catch(failed);
    },
  });
  const failed = (error) => say(count, `not known: ${visible(error.message)}`);
  const rows = new Rows({
    label: "Services",
    className: "services",
    columns: [{ title: "namespace" }, { title: "service" }, { title: "ports" }, { title: "endpoints" }, { title: "ready" }],
    fetchPage: async (offset, limit) => {
      const answer = await ask("/debug/services", { search: wanted, offset, limit });
      say(count, answer.matched === answer.total ? `${answer.total} services` : `${answer.matched} of ${answer.total} services`);
      return { total: answer.matched, rows: answer.services };
    },
    make: () => el("div"),
    show: (element, row) => {
      const text = JSON.stringify(row);
      if (element.dataset.text === text) return;
      element.dataset.text = text;
      const focused = element.contains(document.activeElement);
      const link = el("a", { class: "name", href: href(row.namespace, row.name) }, name(row.name));
      const cell = (className, child) => el("span", { role: "cell", class: className }, child);
      fill(element, cell("", name(row.namespace)), cell("", link), cell("number", row.ports), cell("number", row.endpoints),
        cell(row.ready === 0 && row.endpoints > 0 ? "number bad" : "number", row.ready));
      if (focused) link.focus({ preventScroll: true });
    },
    empty: () => wanted ? "No Service fits this search." : "There is no Service.",
  });
  fill(main, el("h1", null, "Services"), el("form", { class: "filter", role: "search", onsubmit: (event) => event.preventDefault() },
    search, count), rows.element);
  rows.refresh().catch(failed);
  const end = on("summary", throttle(() => rows.refresh(), REFRESH_MS));
  return () => {
    end();
    rows.close();
  };
}

/** Whose requests go where, and the routes that do not apply. */
function rulesSection(rules) {
  const backend = (each) => {
    const why = each.problem ?? (each.ready === 0 ? "no endpoint is ready" : null);
    return el("span", { class: why ? "state rejected" : null }, `${each.backend} × ${each.weight}`, why ? `: ${why}` : "");
  };
  const leads = (rule) => [...(rule.filters ?? []).map((filter) => el("div", null, visible(filter))),
    ...rule.backends.map((each) => el("div", null, backend(each)))];
  const rows = (clients, ports) => ports.flatMap((port) => port.routes.flatMap((route) => route.rules.map((rule, at) => [
    name(`${route.namespace}/${route.name}`), name(clients), port.port, name(rule.name ?? String(at)),
    el("div", null, rule.matches.map((match) => el("div", null, visible(match)))), el("div", null, leads(rule))])));
  const all = [...rows("all", rules.producer),
    ...Object.entries(rules.consumers).flatMap(([namespace, ports]) => rows(`of ${namespace}`, ports))];
  const problems = rules.problems.map((problem) => [problem.accepted, problem.resolved_refs]
    .filter((condition) => !condition.status)
    .map((condition) => el("p", { class: "alarm-note" }, visible(`${problem.route}: ${condition.reason}: ${condition.message}`))));
  return section("Rules of routes", ...problems.flat(), all.length === 0 ? el("p", { class: "note" }, "No rule applies.")
    : table("Whose requests go where", ["route", "clients", "port", "rule", "matches", "leads to"], all));
}

function href(namespace, service) {
  return `#/services/${encodeURIComponent(namespace)}/${encodeURIComponent(service)}`;
}

export function servicePage(main, [namespace, service], query) {
  const asked = { from: query.get("from") ?? "", zone: query.get("zone") ?? "" };
  const field = (key, label, hint) => el("label", null, label, " ", el("input", {
    value: asked[key], placeholder: hint, oninput: (event) => {
      asked[key] = event.target.value.trim();
      refresh();
    },
  }));
  const head = el("div");
  const answerTo = el("div", { "aria-live": "polite" });
  fill(main, el("p", { class: "back" }, el("a", { href: "#/services" }, "← all services")), head,
    el("form", { class: "filter", onsubmit: (event) => event.preventDefault() },
      el("span", null, "as sent to a proxy"), field("from", "in namespace", namespace), field("zone", "in zone", "any")),
    answerTo);

  async function load() {
    let one;
    try {
      one = await ask(`/debug/services/${encodeURIComponent(namespace)}/${encodeURIComponent(service)}`, asked);
    } catch (error) {
      fill(head, el("h1", null, name(service)));
      fill(answerTo, el("p", { class: "note" }, visible(error instanceof Gone ? "This Service has gone." : error.message)));
      return;
    }
    fill(head, el("h1", null, name(one.name), " ", el("small", null, "in ", name(one.namespace))), facts([
      ["host", name(one.host)], ["kind", one.kind ?? "there is no such Service, only endpoints"],
      ["addresses", one.addresses.join(", ")], ["resourceVersion", one.resource_version && name(one.resource_version)],
    ]), one.flaws.map((flaw) => el("p", { class: "alarm-note" }, name(flaw.field), ": ", visible(flaw.reason))));
    const left = one.endpoints.filter((endpoint) => !endpoint.served).length;
    const seen = one.view ? el("p", { class: "note" },
      one.exact ? "What proxies of this view are sent: " : "No proxy is there; this is what the nearest ones are sent: ", name(one.view))
      : el("p", { class: "note" }, "No proxy is connected, so nothing is sent to anybody.");
    fill(answerTo,
      one.rules ? rulesSection(one.rules) : null,
      section("Ports", table("Ports", ["port", "name", "protocol", "target port", "cluster"],
        one.ports.map((port) => [port.port, name(port.name || "–"), port.protocol, name(port.target_port), name(port.cluster)]))),
      section(`Endpoints: ${one.endpoints.length - left} sent, ${left} left out`, seen,
        one.endpoints_total > one.endpoints.length ? el("p", { class: "note" }, `The first ${one.endpoints.length} of ${one.endpoints_total}.`) : null,
        table("Endpoints, and why some are left out", ["address", "port", "sent", "why not", "state", "pod", "zone", "node", "slice"],
          one.endpoints.map((each) => [each.address, each.port,
            el("span", { class: each.served ? "state synced" : "state rejected" }, each.served ? "✓ sent" : "✕ left out"),
            each.reason ? visible(each.reason) : "", each.state, name(each.pod), name(each.zone), name(each.node), name(each.slice)]))),
      one.sent ? section("What is made of it", table("Clusters, listeners and routes", ["what", "name", "domains"], [
        ...one.sent.clusters.map((each) => ["cluster", name(each), ""]),
        ...one.sent.listeners.map((each) => ["listener", name(each), ""]),
        ...one.sent.routes.map((each) => ["route table", name(each.table), name(each.domains.join(", "))]),
      ])) : null,
      section(`Proxies that lag behind: ${one.lagging_total}`,
        one.lagging_total === 0 ? el("p", { class: "note" }, "None: every proxy that is sent this Service has acknowledged the newest of it.")
          : el("ul", { class: "names" }, one.lagging.map((each) =>
            el("li", null, el("a", { href: `#/proxies?search=${encodeURIComponent(each)}` }, name(each)))))));
  }

  const refresh = throttle(load, REFRESH_MS / 2);
  load();
  const ends = [on("summary", refresh)];
  return () => ends.forEach((end) => end());
}
