/** What a call would do, to the letter: an approval is for exactly what is seen, so nothing in it may hide. */

import { h } from "../js/dom.js";

// Controls, marks that turn the direction of writing, and other characters that show nothing. Line ends stay.
const HIDDEN = /[^\P{C}\n]|[\p{Zl}\p{Zp}]|[^\P{Zs} ]/gu;

/** Text in which each character that cannot be seen stands as its code. */
export function visible(text) {
  return text.replace(HIDDEN, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

export function exact(json) {
  return h("pre", { className: "arguments", tabIndex: 0 }, visible(json));
}

/** Which arguments may be somebody else's words, and whose. */
export function taints(tainted) {
  if (!tainted.length) return "";
  return h("ul", { className: "taints" }, ...tainted.map(({ path, value, origins, found }) => {
    const whose = origins.map((origin) => h("span", { className: "origin" }, origin));
    if (!path) return h("li", {}, "The call was chosen after reading ", ...whose);
    return h("li", {}, h("code", {}, path), " ", h("mark", {}, visible(value)),
      found ? " came from " : " was written after reading ", ...whose);
  }));
}
