/** The source viewer: a document's text by its pages, with a span marked. Only what is near is in the page. */

import { fetchJson } from "./api.js";
import { CodePoints, partsCharacter } from "./codepoints.js";
import { byId, failure, h } from "./dom.js";
import { openPanel } from "./panel.js";
import { softBreaks } from "./reflow.js";

const PIECE = 12_000; // UTF-16 units that are rendered at once
const KEPT = 4; // documents whose text is kept for the next look
const documents = new Map();
let shown = null;
let asked = 0;

/** The address of a document, whose name may hold slashes and all else that file names may. */
const addressOf = (name) => `api/documents/${name.split("/").map(encodeURIComponent).join("/")}`;

/** Forget the texts, which a sync may have changed. */
export const forgetDocuments = () => documents.clear();

/**
 * Open a document at a span, or at its beginning.
 *
 * place: { file, start, end, quote, answerStart, answerEnd, page }, offsets in code points of the document's text;
 * all but `file` may be absent. `quote` is what must stand there: a document that was changed since is not marked.
 */
export async function openSource(place, { opener, onclose }) {
  const panel = byId("source");
  const mine = ++asked;
  byId("source-title").textContent = place.file;
  byId("source-subtitle").textContent = "";
  byId("source-pager").hidden = true;
  byId("source-foot").hidden = true;
  notice("");
  const text = byId("source-text");
  text.className = "paper";
  text.replaceChildren(h("p", { className: "muted", role: "status" }, "Opening the document…"));
  shown?.close();
  shown = null;
  openPanel(panel, {
    opener,
    focus: byId("source-scroll"),
    onclose: () => {
      if (mine === asked) asked++;
      onclose?.();
    },
  });
  try {
    const document = await read(place.file);
    if (mine === asked) shown = new Viewer(document, place);
  } catch (error) {
    if (mine === asked) text.replaceChildren(failure(error.message));
  }
}

async function read(name) {
  const known = documents.get(name);
  if (known) return known;
  const answer = await fetchJson(addressOf(name));
  const found = { ...answer, points: new CodePoints(answer.text) };
  documents.set(name, found);
  if (documents.size > KEPT) documents.delete(documents.keys().next().value);
  return found;
}

function notice(text) {
  byId("source-notice").textContent = text;
  byId("source-notice").hidden = !text;
}

/** The pieces that a text is rendered by: each within one page, cut after a line, or a word, where one ends there. */
export function cutPieces(text, starts) {
  const pieces = [];
  starts.forEach((start, page) => {
    const end = starts[page + 1] ?? text.length;
    for (let from = start; from < end || from === start; ) {
      let to = Math.min(end, from + PIECE);
      if (to < end) {
        const piece = text.slice(from, to);
        const cut = piece.lastIndexOf("\n") + 1 || piece.lastIndexOf(" ") + 1;
        if (cut > 0) to = from + cut;
        else if (partsCharacter(text, to)) to--;
      }
      pieces.push({ page, from, to, first: from === start });
      if (to === from) break;
      from = to;
    }
  });
  return pieces;
}

class Viewer {
  constructor(document, place) {
    this.document = document;
    this.scroll = byId("source-scroll");
    this.root = byId("source-text");
    const { text, points } = document;
    this.pages = document.pages.length ? document.pages : [{ number: 1, start: 0, end: 0, label: "" }];
    // What lies between two pages belongs to the first, what lies before all of them to the first of them.
    const starts = this.pages.map((page, index) => (index === 0 ? 0 : points.toUnit(page.start)));
    this.pieces = cutPieces(text, starts);
    this.soft = /markdown|x-rst/.test(document.media_type) ? softBreaks(text) : [];
    this.span = this.findSpan(place);
    this.root.className = /^text\/(markdown|plain|x-rst|html)|pdf|word|presentation|message/.test(document.media_type)
      ? "paper prose"
      : "paper code";
    byId("source-title").title = document.name;
    byId("source-subtitle").textContent = document.title === document.name ? "" : document.title;
    this.before = this.moreButton("Show earlier text", () => this.grow(-1));
    this.after = this.moreButton("Show more text", () => this.grow(1));
    this.watcher = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) if (entry.isIntersecting) this.grow(entry.target === this.before ? -1 : 1);
      },
      { root: this.scroll, rootMargin: "600px 0px" },
    );
    this.setUpPager();
    if (this.span) this.showSpan();
    else this.showPage(this.pageIndex(place.page));
    this.setUpFoot(place);
  }

  /** The span in UTF-16 units; null where there is none, or the document does not say there what was quoted. */
  findSpan({ start, end, quote, answerStart, answerEnd }) {
    if (start === undefined) return null;
    const { text, points } = this.document;
    const [from, to] = [points.toUnit(start), points.toUnit(end)];
    if (quote !== undefined && text.slice(from, to) !== quote) {
      notice("The document was changed since: the quotation does not stand there any more.");
      return null;
    }
    const within = answerStart === undefined ? [from, from] : [points.toUnit(answerStart), points.toUnit(answerEnd)];
    return { start: from, end: to, answer: within };
  }

  moreButton(label, act) {
    const button = h("button", { type: "button", className: "outlined more" }, label);
    button.addEventListener("click", act);
    return button;
  }

  close() {
    this.watcher.disconnect();
  }

  showPage(index) {
    this.showAt(this.pieces.find((piece) => piece.page === index).from, false);
    this.pin(index);
  }

  showSpan() {
    this.showAt(this.span.start, true);
    this.pin(this.pieces.findLast((piece) => piece.from <= this.span.start).page);
  }

  /** Render around a place in the text, and bring it, or the marked span that begins there, to sight. */
  showAt(unit, span) {
    const at = Math.max(0, this.pieces.findLastIndex((piece) => piece.from <= unit));
    const until = span ? Math.max(this.span.end, unit + 1) : unit + 1;
    this.first = Math.max(0, at - 1);
    this.end = Math.min(this.pieces.length, this.pieces.findLastIndex((piece) => piece.from < until) + 2);
    this.watcher.disconnect();
    const parts = this.pieces.slice(this.first, this.end).map((piece) => this.render(piece));
    this.root.replaceChildren(this.before, ...parts, this.after);
    this.updateEnds();
    const mark = span && this.root.querySelector("mark");
    if (mark) mark.scrollIntoView({ block: mark.offsetHeight > this.scroll.clientHeight ? "start" : "center" });
    else if (unit === 0) this.scroll.scrollTop = 0;
    else parts[at - this.first].scrollIntoView({ block: "start" });
    requestAnimationFrame(() => {
      this.watcher.observe(this.before);
      this.watcher.observe(this.after);
    });
  }

  /** One piece more at an end; what is in sight stays where it is. */
  grow(direction) {
    const height = this.scroll.scrollHeight;
    if (direction < 0 && this.first > 0) this.before.after(this.render(this.pieces[--this.first]));
    if (direction > 0 && this.end < this.pieces.length) this.after.before(this.render(this.pieces[this.end++]));
    this.updateEnds();
    if (direction < 0) this.scroll.scrollTop += this.scroll.scrollHeight - height;
    // An observer tells of changes only; the end may still be near.
    const button = direction < 0 ? this.before : this.after;
    this.watcher.unobserve(button);
    if (!button.hidden) this.watcher.observe(button);
  }

  updateEnds() {
    this.before.hidden = this.first === 0;
    this.after.hidden = this.end === this.pieces.length;
  }

  render({ page, from, to, first }) {
    const element = h("div", { className: "piece" });
    element.dataset.page = page;
    if (first && this.pages.length > 1) {
      element.append(h("h3", { className: "page" }, this.pageName(page)));
    }
    element.append(h("div", { className: "text", dir: "auto" }, ...this.runs(from, to)));
    return element;
  }

  /** Units `from` to `to` as text, with what of the span lies in them marked, the words that answer stronger. */
  runs(from, to) {
    if (!this.span || this.span.end <= from || this.span.start >= to) return this.plain(from, to);
    const within = (unit, low, high) => Math.min(high, Math.max(low, unit));
    const [start, end] = [within(this.span.start, from, to), within(this.span.end, from, to)];
    const [strong, weak] = this.span.answer.map((unit) => within(unit, start, end));
    const mark = h(
      "mark",
      {},
      ...this.plain(start, strong),
      strong < weak && h("strong", {}, ...this.plain(strong, weak)),
      ...this.plain(weak, end),
    );
    return [...this.plain(from, start), mark, ...this.plain(end, to)];
  }

  /** Units `from` to `to`; soft line ends are there, but look like spaces. */
  plain(from, to) {
    const { text } = this.document;
    const nodes = [];
    let at = from;
    for (let next = this.firstSoft(from); next < this.soft.length && this.soft[next][0] < to; next++) {
      const start = Math.max(from, this.soft[next][0]);
      const end = Math.min(to, this.soft[next][1]);
      nodes.push(text.slice(at, start), h("span", { className: "soft" }, text.slice(start, end)));
      at = end;
    }
    nodes.push(text.slice(at, to));
    return nodes;
  }

  /** The index of the first soft line end that ends after a unit. */
  firstSoft(unit) {
    let low = 0;
    let high = this.soft.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.soft[middle][1] > unit) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  pageName(index) {
    const { number, label } = this.pages[index];
    if (/presentation/.test(this.document.media_type)) return label ? `Slide ${number}: ${label}` : `Slide ${number}`;
    if (/spreadsheet/.test(this.document.media_type)) return label ? `Sheet ${number}: ${label}` : `Sheet ${number}`;
    return label && label !== String(number) ? `Page ${number} (printed ${label})` : `Page ${number}`;
  }

  pageIndex(number) {
    return Math.max(0, this.pages.findIndex((page) => page.number === number));
  }

  setUpPager() {
    const select = byId("source-page");
    byId("source-pager").hidden = this.pages.length === 1;
    select.replaceChildren(...this.pages.map((_, index) => h("option", { value: index }, this.pageName(index))));
    select.onchange = () => this.showPage(Number(select.value));
    byId("source-previous").onclick = () => this.showPage(Math.max(0, Number(select.value) - 1));
    byId("source-next").onclick = () => this.showPage(Math.min(this.pages.length - 1, Number(select.value) + 1));
    this.scroll.onscroll = () => this.updatePager();
  }

  /** Name the page that was gone to, until someone scrolls on. */
  pin(page) {
    this.pinned = this.scroll.scrollTop;
    this.namePage(page);
  }

  /** Name the page that is at the top third of what is in sight. */
  updatePager() {
    if (this.scroll.scrollTop === this.pinned) return;
    this.pinned = null;
    const line = this.scroll.getBoundingClientRect().top + this.scroll.clientHeight / 3;
    let page = 0;
    for (const piece of this.root.querySelectorAll(".piece")) {
      if (piece.getBoundingClientRect().top > line) break;
      page = Number(piece.dataset.page);
    }
    this.namePage(page);
  }

  namePage(page) {
    byId("source-page").value = page;
    byId("source-previous").disabled = page === 0;
    byId("source-next").disabled = page === this.pages.length - 1;
  }

  setUpFoot({ start, end, page }) {
    byId("source-foot").hidden = this.span === null;
    if (this.span === null) return;
    const where = this.pages.length > 1 ? `${this.pageName(this.pageIndex(page))}, ` : "";
    byId("source-place").textContent = `${where}characters ${start}–${end}`;
    byId("source-return").onclick = () => {
      this.showSpan();
      this.scroll.focus();
    };
  }
}
