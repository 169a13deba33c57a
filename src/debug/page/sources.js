// Where it all comes from: the watches, and what was left out.

import { ask, span } from "./api.js";
import { el, facts, fill, name, section, table, visible } from "./dom.js";
import { on } from "./live.js";
import { throttle } from "./rows.js";

export function sourcesPage(main) {
  const body = el("div", { "aria-live": "off" });
  fill(main, el("h1", null, "Sources"), body);

  async function load() {
    const all = await ask("/debug/sourcez");
    const objects = (title, list, none) => section(title, Object.keys(list).length === 0
      ? el("p", { class: "note" }, none)
      : table(title, ["object", "why"], Object.entries(list).map(([object, why]) => [name(object), visible(why)])));
    fill(body,
      all.ready ? null : el("p", { class: "alarm-note" }, "Not ready: ", visible(all.waitingFor ?? "")),
      facts([["services", all.services], ["EndpointSlices", all.endpointSlices],
        ["generation", all.snapshot?.generation ?? "none yet"], ["views", all.snapshot?.views.length ?? 0]]),
      section("Watches", table("Each watch, and when it was last heard from",
        ["watch", "state", "last heard from", "errors", "last error, or why it is not there", "listed"],
        all.watches.map((watch) => [name(watch.name), state(watch),
          watch.ageSeconds === undefined ? "never" : `${span(watch.ageSeconds)} ago`, watch.errors,
          visible(watch.lastError ?? watch.absent ?? ""), watch.listed ?? ""]))),
      objects("Objects that were left out", all.rejected, "None."),
      objects("Objects of which a part was left out", all.noted, "None."),
      Object.keys(all.skipped).length === 0 ? null : section("Kinds that are passed over",
        facts(Object.entries(all.skipped).map(([kind, count]) => [visible(kind), count]))),
      all.snapshot ? section("Views", table("What proxies differ by, and how much each sort is sent",
        ["view", "CDS", "EDS", "LDS", "RDS", "bytes"],
        all.snapshot.views.map((view) => [name(view.view), view.resources.cds, view.resources.eds, view.resources.lds,
          view.resources.rds, view.bytes]))) : null);
  }

  const failed = (error) => fill(body, el("p", { class: "note" }, visible(error.message)));
  load().catch(failed);
  const refresh = throttle(load, 300);
  const ends = [on("summary", refresh)];
  const timer = setInterval(refresh, 2000);
  return () => {
    ends.forEach((end) => end());
    clearInterval(timer);
  };
}

function state(watch) {
  if (watch.lastError) return el("span", { class: "state rejected" }, "✕ failing");
  if (watch.absent) return el("span", { class: "state" }, "– not there");
  if (!watch.synced) return el("span", { class: "state stale" }, "◔ not listed yet");
  return el("span", { class: "state synced" }, "✓ watching");
}
