/** Ratings of both answers: radio buttons from 1 to 5, filled by digits one row after the other. */

import { byId, h } from "../js/dom.js";

const ASPECTS = ["helpfulness", "accuracy", "safety"];
const SIDES = [1, 2];

export function startRatings() {
  for (const side of SIDES) {
    byId(`rate-${side}`).replaceChildren(
      h("p", { className: "small-heading" }, `Answer ${side}`),
      ...ASPECTS.map((aspect) => row(side, aspect)),
    );
  }
}

function row(side, aspect) {
  const name = `${aspect}-${side}`;
  const title = aspect[0].toUpperCase() + aspect.slice(1);
  const steps = [1, 2, 3, 4, 5].map((value) => {
    const input = h("input", { type: "radio", name, value, "aria-label": `${value} of 5` });
    return h("label", { className: "step" }, input, h("span", { "aria-hidden": "true" }, String(value)));
  });
  const group = h("div", { className: "rating", role: "radiogroup", "aria-label": `${title} of answer ${side}` },
    h("span", { className: "aspect", "aria-hidden": "true" }, title), h("span", { className: "steps" }, ...steps));
  group.addEventListener("keydown", onKey);
  return group;
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const group = event.currentTarget;
  if (/^[1-5]$/.test(event.key)) {
    group.querySelectorAll("input")[event.key - 1].checked = true;
    next(group).focus();
  } else if (event.key === "0") {
    for (const input of group.querySelectorAll("input")) input.checked = false;
  } else {
    return;
  }
  event.preventDefault();
}

/** Where the digits go on: the next row, or after the last the place where keys judge. */
function next(group) {
  const groups = [...document.querySelectorAll(".rating")];
  const following = groups[groups.indexOf(group) + 1];
  return following ? entry(following) : byId("compare-scroll");
}

const entry = (group) => group.querySelector("input:checked") ?? group.querySelector("input");

export function focusRatings() {
  entry(document.querySelector(".rating")).focus();
}

export function clearRatings() {
  for (const input of document.querySelectorAll(".rating input")) input.checked = false;
}

/** What is rated, of each answer by aspect. */
export function readRatings() {
  return SIDES.map((side) => Object.fromEntries(ASPECTS.flatMap((aspect) => {
    const chosen = document.querySelector(`input[name="${aspect}-${side}"]:checked`);
    return chosen ? [[aspect, Number(chosen.value)]] : [];
  })));
}

export function fillRatings(ratings) {
  ratings.forEach((rated, at) => {
    for (const [aspect, value] of Object.entries(rated)) {
      document.querySelector(`input[name="${aspect}-${SIDES[at]}"][value="${value}"]`).checked = true;
    }
  });
}
