// What the server tells by itself. A connection that is lost is said and opened again.

// The server says something every five seconds at least, and ends each connection now and then.
const SILENCE_MS = 12000;
const GRACE_MS = 1500;
const RETRY_MS = 1000;

const listeners = { summary: new Set(), traffic: new Set(), state: new Set() };
let source = null;
let heard = 0;
let lostSince = null;
let saysLost = false;
let summary = null;

/** Calls `listener` for each event of this kind; gives what ends that. */
export function on(kind, listener) {
  listeners[kind].add(listener);
  if (kind === "summary" && summary) listener(summary);
  return () => listeners[kind].delete(listener);
}

function tell(kind, value) {
  for (const listener of [...listeners[kind]]) listener(value);
}

function alive() {
  heard = Date.now();
  lostSince = null;
  if (saysLost || source.isNew) {
    const wasLost = saysLost;
    saysLost = false;
    source.isNew = false;
    tell("state", { lost: false, wasLost });
  }
}

function connect() {
  source?.close();
  source = new EventSource("/debug/events");
  source.isNew = true;
  heard = Date.now();
  source.addEventListener("summary", (event) => {
    summary = JSON.parse(event.data);
    alive();
    tell("summary", summary);
  });
  source.addEventListener("traffic", (event) => {
    alive();
    tell("traffic", JSON.parse(event.data));
  });
  source.addEventListener("alive", alive);
  source.addEventListener("error", () => { lostSince ??= Date.now(); });
}

/** Begins, and never ends. */
export function start() {
  connect();
  let last = Date.now();
  setInterval(() => {
    const now = Date.now();
    // A page in the background, or a laptop that slept: nothing is known yet.
    if (now - last > 5000) heard = now;
    last = now;
    if (now - heard > SILENCE_MS) lostSince ??= heard;
    if (lostSince === null || now - lostSince < GRACE_MS) return;
    if (!saysLost) {
      saysLost = true;
      tell("state", { lost: true, since: new Date(lostSince) });
    }
    // A browser tries again by itself while nobody answers, but not after an answer that is no stream.
    if (source.readyState === EventSource.CLOSED || now - heard > SILENCE_MS) {
      connect();
    }
  }, RETRY_MS / 2);
}
