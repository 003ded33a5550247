/**
 * Where a line of plain text ends only because its author wrapped it. In Markdown and reStructuredText a line end within
 * a paragraph is no more than a space; shown as it is, it would break lines a second time on a narrow screen.
 */

const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const RULE = /^\s*([=\-~^"'`#*+_:.])\1{2,}\s*$/;
/** A line that stays on its own: heading, table, quotation, code, markup, rule. */
const APART = /^(?: {4}|\t|\s*(?:#{1,6}\s|\||\+[-=]|>|<|\.\.\s|:\w+:))/;
const ITEM = /^\s*(?:[-*+•]|\d{1,9}[.)]|#\.)\s/;
const KEPT = /(?: {2}|\\|::)$/;

/** The soft line ends of `text`, each `[from, to]` in UTF-16 units: the line end and the next line's indentation. */
export function softBreaks(text) {
  const found = [];
  let fence = null;
  let at = 0;
  let before = null; // the line before, where one may be joined to it
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line)?.[1] ?? null;
    const inside = fence !== null || mark !== null;
    if (fence === null) fence = mark;
    else if (mark?.startsWith(fence)) fence = null;
    const own = inside || APART.test(line) || RULE.test(line) || !line.trim();
    // What continues an item is indented below it; anything else that is indented so far is code.
    if (before !== null && !own && !ITEM.test(line)) {
      const indent = /^\s*/.exec(line)[0].length;
      if (indent < line.length) found.push([at - 1, at + indent]);
    }
    before = own || KEPT.test(line) ? null : line;
    at += line.length + 1;
  }
  return found;
}
