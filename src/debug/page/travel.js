// Marks that travel along the lines of the picture.

import { svg } from "./dom.js";

const LASTS_MS = 900;
const FRAMES = 16;
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

  /** Lets a mark travel along a line, forth or back, as the `step`th of what belongs together. */
  go(what, line, isBack, step) {
    this.drawing.dataset[what] = Number(this.drawing.dataset[what] ?? 0) + 1;
    if (this.marks.size >= MAX_MARKS) return;
    if (this.still.matches) {
      this.light(what, line);
      return;
    }
    const mark = svg("text", { class: `mark ${what}` }, MARKS[what]);
    const length = line.getTotalLength();
    const frames = Array.from({ length: FRAMES + 1 }, (_, at) => {
      const part = at / FRAMES;
      const { x, y } = line.getPointAtLength(length * (isBack ? 1 - part : part));
      return { transform: `translate(${x}px, ${y}px)` };
    });
    this.marks.add(mark);
    const timer = setTimeout(() => {
      this.layer.append(mark);
      const moving = mark.animate(frames, { duration: LASTS_MS, easing: "ease-in-out", fill: "both" });
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
