// A list of any length: rows are fetched as they come into sight, and only those in sight are elements.

import { el } from "./dom.js";

const PAGE = 100;
const KEPT_PAGES = 12;
const BEYOND = 6; // Rows above and below what is in sight.

export class Rows {
  /**
   * `fetchPage(offset, limit)` gives `{total, rows}`; `make()` a row's element, `show(element, row)` fills it;
   * `columns` are the heads. The height of a row is the style sheet's.
   */
  constructor({ label, columns, className, fetchPage, make, show, empty }) {
    Object.assign(this, { fetchPage, make, show, empty });
    this.total = 0;
    this.pages = new Map();
    this.shown = new Map();
    this.generation = 0;
    this.body = el("div", { class: "rows", role: "rowgroup" });
    this.head = el("div", { class: "row head", role: "row", "aria-rowindex": 1 },
      columns.map((column) => el("span", { role: "columnheader", class: column.class }, column.title)));
    this.note = el("p", { class: "note", hidden: true });
    this.element = el("div", { class: `list ${className}`, role: "table", "aria-label": label },
      el("div", { role: "rowgroup", class: "heads" }, this.head), this.body, this.note);
    this.element.addEventListener("scroll", () => this.draw(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.element);
  }

  close() {
    this.resized.disconnect();
    this.generation = -1;
  }

  /** Other rows: from the top, nothing of the old ones is kept. */
  async reset() {
    this.pages.clear();
    this.element.scrollTop = 0;
    await this.refresh();
  }

  /** The same rows anew. What is in sight stays until the new rows are there. */
  async refresh() {
    if (this.refreshing) {
      this.again = true;
      return;
    }
    this.refreshing = true;
    try {
      do {
        this.again = false;
        this.generation += 1;
        const [first, last] = this.inSight();
        const wanted = new Set([Math.floor(first / PAGE), Math.floor(Math.max(first, last - 1) / PAGE)]);
        for (const page of [...this.pages.keys()]) if (!wanted.has(page)) this.pages.delete(page);
        await Promise.all([...wanted].map((page) => this.load(page)));
      } while (this.again);
    } finally {
      this.refreshing = false;
    }
  }

  async load(page) {
    const generation = this.generation;
    const old = this.pages.get(page);
    this.pages.set(page, { rows: old?.rows ?? null, loading: generation });
    let answer;
    try {
      answer = await this.fetchPage(page * PAGE, PAGE);
    } catch (error) {
      this.pages.delete(page);
      if (old?.rows) this.pages.set(page, { rows: old.rows });
      throw error;
    }
    if (generation !== this.generation) return;
    this.pages.delete(page);
    this.pages.set(page, { rows: answer.rows });
    this.total = answer.total;
    while (this.pages.size > KEPT_PAGES) this.pages.delete(this.pages.keys().next().value);
    this.draw();
  }

  rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 44;
  }

  inSight() {
    const height = this.rowHeight();
    const first = Math.max(0, Math.floor(this.element.scrollTop / height) - BEYOND);
    const count = Math.ceil((this.element.clientHeight || 600) / height) + 2 * BEYOND;
    return [first, first + count];
  }

  row(index) {
    return this.pages.get(Math.floor(index / PAGE))?.rows?.[index % PAGE];
  }

  draw() {
    if (this.generation < 0) return;
    const height = this.rowHeight();
    const [first, end] = this.inSight();
    const last = Math.min(end, this.total);
    this.body.style.height = `${this.total * height}px`;
    this.element.setAttribute("aria-rowcount", this.total + 1);
    for (const [index, element] of this.shown) {
      if (index < first || index >= last) {
        element.remove();
        this.shown.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) {
      let element = this.shown.get(index);
      if (!element) {
        element = this.make();
        element.classList.add("row");
        element.setAttribute("role", "row");
        element.setAttribute("aria-rowindex", index + 2);
        element.dataset.index = index;
        element.style.transform = `translateY(${index * height}px)`;
        this.shown.set(index, element);
        // In order, for the keyboard and for readers of screens.
        const next = [...this.body.children].find((other) => Number(other.dataset.index) > index);
        this.body.insertBefore(element, next ?? null);
      } else {
        element.style.transform = `translateY(${index * height}px)`;
      }
      const row = this.row(index);
      element.classList.toggle("waiting", !row);
      if (row) this.show(element, row);
      else this.want(Math.floor(index / PAGE));
    }
    this.note.hidden = this.total > 0;
    if (this.total === 0) this.note.textContent = this.empty();
  }

  want(page) {
    if (this.pages.has(page)) return;
    this.load(page).catch(() => {}); // Asked again with the next refresh.
  }

  /** Up and down go from row to row. */
  key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = document.activeElement?.closest?.(".row");
    if (!step || !row || !this.body.contains(row) || event.target.closest("input, select")) return;
    const index = Number(row.dataset.index) + step;
    if (index < 0 || index >= this.total) return;
    event.preventDefault();
    const height = this.rowHeight();
    const top = index * height;
    const room = this.element.clientHeight - this.head.offsetHeight - height;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top > this.element.scrollTop + room) this.element.scrollTop = top - room;
    this.draw();
    this.shown.get(index)?.querySelector("a, button")?.focus({ preventScroll: true });
  }
}

/** Calls `work` at once, and not again before it is done and `pause` has gone by. */
export function throttle(work, pause) {
  let isBusy = false;
  let again = false;
  const run = async () => {
    isBusy = true;
    again = false;
    try {
      await work();
    } catch {
      // Whoever shows it has said so; the next event asks again.
    }
    setTimeout(() => {
      isBusy = false;
      if (again) run();
    }, pause);
  };
  return () => {
    if (isBusy) again = true;
    else run();
  };
}
