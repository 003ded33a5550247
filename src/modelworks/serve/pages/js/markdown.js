/**
 * Markdown that a model wrote, shown safely: it may hold anything that someone put into a document or a web page.
 *
 * Three walls stand behind each other. Markup in the text is shown as text, and images as links, so that nothing is
 * ever fetched; DOMPurify lets only the elements and attributes below pass; and the page's content security policy
 * runs no inline script and loads from this server alone.
 */

import DOMPurify from "../vendor/purify.js";
import { Marked } from "../vendor/marked.js";
import { copyButton, h } from "./dom.js";

const ALLOWED = {
  ALLOWED_TAGS: ("a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre strong sub sup table tbody td th " +
    "thead tr ul").split(" "),
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, // what every attribute must look like but these and a few harmless ones
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const HARMLESS = /^<\/?(?:br|sub|sup)\s*\/?>$/i;
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escaped = (text) => text.replace(/[&<>"']/g, (character) => ESCAPES[character]);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html({ text, block }) {
      if (HARMLESS.test(text.trim())) return text;
      return block ? `<p>${escaped(text.trim()).replaceAll("\n", "<br>")}</p>` : escaped(text);
    },
    image: ({ href, text }) => `<a href="${escaped(href)}" title="${escaped(href)}">${escaped(text || "Image")}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** The nodes of a block; a link opens beside the page and tells the other side nothing. */
function nodes(tokens) {
  const fragment = DOMPurify.sanitize(marked.parser(tokens).trim(), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const code of fragment.querySelectorAll("pre > code")) {
    const language = /(?:^|\s)language-([\w+#.-]+)/.exec(code.className)?.[1] ?? "";
    code.removeAttribute("class");
    const frame = h("div", { className: "listing" });
    code.parentElement.replaceWith(frame);
    const text = code.textContent.replace(/\n$/, "");
    frame.append(
      h("div", { className: "listing-head" }, h("span", {}, language), copyButton(() => text)),
      h("pre", { tabIndex: 0 }, code),
    );
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", { className: "table-scroll", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

/** A Markdown text that grows: `update` renders only the blocks that changed, so that selections in others stay. */
export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.blocks = [];
    this.links = "{}";
  }

  update(text) {
    const found = marked.lexer(text);
    const tokens = found.filter(({ type }) => type !== "space" && type !== "def");
    const links = JSON.stringify(found.links);
    // A link's address may be defined further down, which changes blocks that were there before.
    let same = 0;
    if (links === this.links) while (same < this.blocks.length && this.blocks[same].raw === tokens[same]?.raw) same++;
    for (const block of this.blocks.splice(same)) block.element.remove();
    for (const token of tokens.slice(same)) {
      const element = h("div", { className: "block" });
      element.append(nodes(Object.assign([token], { links: found.links })));
      this.element.append(element);
      this.blocks.push({ raw: token.raw, element });
    }
    this.links = links;
  }
}
