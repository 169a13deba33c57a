// Marks that travel along the lines of the picture.

import { svg } from "./dom.js";

const LASTS_MS = 900;
const MAX_MARKS = 60;
const MARKS = { change: "■", push: "●", ack: "✓", nack: "✕" };

export class Travel {
  constructor(drawing) {
    this.drawing = drawing;
    this.layer = svg("g", { class: "travel", "aria-hidden": "true" });
    this.marks = new Set();
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.drawing.append(this.layer);
  }

  /** Above all else, after the rest was drawn anew. */
  raise() {
    this.drawing.append(this.layer);
  }

  /** Lets a mark travel, as the `step`th of what belongs together. */
  go(what, from, to, step, line) {
    this.drawing.dataset[what] = Number(this.drawing.dataset[what] ?? 0) + 1;
    if (this.marks.size >= MAX_MARKS) return;
    if (this.still.matches) {
      this.light(what, line);
      return;
    }
    const mark = svg("text", { class: `mark ${what}` }, MARKS[what]);
    const [x1, y1] = from;
    const [x2, y2] = to;
    this.marks.add(mark);
    const timer = setTimeout(() => {
      this.layer.append(mark);
      // The lines are S-curves with their control points half-way; this is the same curve.
      const frames = Array.from({ length: 13 }, (_, at) => {
        const t = at / 12;
        const bend = t * t * (3 - 2 * t);
        const across = 1.5 * t * (1 - t) + t * t * t + 1.5 * t * t * (1 - t);
        return { transform: `translate(${x1 + (x2 - x1) * across}px, ${y1 + (y2 - y1) * bend}px)` };
      });
      const moving = mark.animate(frames, { duration: LASTS_MS, easing: "linear", fill: "both" });
      const end = () => {
        mark.remove();
        this.marks.delete(mark);
      };
      moving.addEventListener("finish", end);
      moving.addEventListener("cancel", end);
    }, step * LASTS_MS * 0.8);
    mark.cancel = () => clearTimeout(timer);
  }

  /** Without motion: the line shows what went over it, for as long as a mark would have travelled. */
  light(what, line) {
    if (!line) return;
    line.setAttribute("class", `lit ${what}`);
    setTimeout(() => {
      if (line.getAttribute("class") === `lit ${what}`) line.removeAttribute("class");
    }, LASTS_MS);
  }

  close() {
    for (const mark of this.marks) mark.cancel();
    this.layer.remove();
  }
}
