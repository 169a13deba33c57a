// Questions to the server, and its clock.

let ahead = 0; // How far the server's clock is ahead of ours, in milliseconds.

export class Gone extends Error {}

/** The JSON at a path; throws Gone for 404, with the server's words. */
export async function ask(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  const answer = await fetch(text ? `${path}?${text}` : path, { cache: "no-store" });
  const date = Date.parse(answer.headers.get("date") ?? "");
  // The header has whole seconds: less than two of difference mean nothing.
  if (!Number.isNaN(date)) ahead = Math.abs(date - Date.now()) > 2000 ? date - Date.now() : 0;
  if (!answer.ok) {
    const words = (await answer.text()).trim();
    throw answer.status === 404 ? new Gone(words) : new Error(words || `status ${answer.status}`);
  }
  return answer.json();
}

/** How long ago a moment was, in seconds by the server's clock. */
export function secondsSince(moment) {
  return Math.max(0, (Date.now() + ahead - Date.parse(moment)) / 1000);
}

/** The same for people: two digits are enough. */
export function age(moment) {
  if (!moment) return "–";
  const seconds = secondsSince(moment);
  if (Number.isNaN(seconds)) return "–";
  return span(seconds);
}

/** A length of time for people. */
export function span(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** The time of day of a moment, with milliseconds. */
export function clock(moment) {
  if (!moment) return "–";
  const date = new Date(moment);
  const two = (number, digits = 2) => String(number).padStart(digits, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${two(date.getMilliseconds(), 3)}`;
}
