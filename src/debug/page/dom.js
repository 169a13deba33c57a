// Elements. Text enters as text nodes alone, never as markup: names and messages come from strangers.

/** Makes an element: attributes, then children (nodes and text; nothing for null). */
export function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") made[name] = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined).map(node));
  return made;
}

/** The same in SVG. */
export function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, String(value));
  made.append(...children.map(node));
  return made;
}

function node(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/** Puts children in the place of all that an element has. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined).map(node));
}

/** Sets an element's text, if it differs: a reader of screens is told of real changes alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Control characters, and those that turn the direction of what follows: they are shown, not obeyed.
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** Text with its control characters visible. */
export function visible(text, keepLines = false) {
  return String(text).replace(CONTROLS, (one) => {
    const code = one.codePointAt(0);
    if (keepLines && one === "\n") return one;
    return `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›`;
  });
}

/** A name of somebody else's, isolated from the direction of the text around it. */
export function name(text, attributes) {
  return el("bdi", attributes, visible(text ?? "–"));
}

const STATES = {
  "SYNCED": ["synced", "✓"],
  "STALE": ["stale", "◔"],
  "REJECTED": ["rejected", "✕"],
  "NOT SENT": ["not-sent", "○"],
};

export const STATE_NAMES = ["REJECTED", "STALE", "NOT SENT", "SYNCED"];

/** The class of a state. */
export function stateClass(state) {
  return STATES[state]?.[0] ?? "not-sent";
}

/** A state, by shape, word and colour. */
export function badge(state, more) {
  const [, shape] = STATES[state] ?? ["", "○"];
  return el("span", { class: `state ${stateClass(state)}` },
    el("span", { class: "shape", "aria-hidden": "true" }, shape), state, more ? ` ${more}` : null);
}

/** A heading with what belongs to it. */
export function section(title, ...children) {
  return el("section", null, el("h2", null, title), ...children);
}

/** Names and values. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" },
    shown.map(([key, value]) => el("div", null, el("dt", null, key), el("dd", null, value))));
}

/** A table that scrolls sideways by itself where the window is narrow. */
export function table(caption, heads, rows) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", null,
      el("caption", null, caption),
      el("thead", null, el("tr", null, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", null, rows.map((cells) => el("tr", null, cells.map((cell) => el("td", null, cell)))))));
}
