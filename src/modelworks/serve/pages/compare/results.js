/** What the judgements say: how many, how far people and groups agree, and on what they do not. */

import { fetchJson } from "../js/api.js";
import { byId, failure, h } from "../js/dom.js";

const percent = (rate) => (rate === null ? "–" : `${Math.round(rate * 100)}%`);
const decimal = (value) => (value === null ? "–" : value.toFixed(2));
const share = ({ rate, of }) => (rate === null ? "–" : `${percent(rate)} of ${of} pairs`);

export async function showResults() {
  const place = byId("results");
  let found;
  try {
    found = await fetchJson("../api/results");
  } catch (error) {
    const again = h("button", { type: "button", className: "outlined" }, "Try again");
    again.addEventListener("click", showResults);
    place.replaceChildren(failure(error.message, again));
    return;
  }
  const { choices, shown_first_wins: position } = found;
  const judged = Object.values(choices).reduce((sum, count) => sum + count, 0);
  place.replaceChildren(
    ...found.notes.map((note) => h("p", { className: "notice" }, note[0].toUpperCase() + note.slice(1) + ".")),
    facts({
      "Judgements": judged,
      "Comparisons judged": `${found.comparisons} of ${found.total}`,
      "Ties": choices.tie,
      "Skips": choices.skip,
      "Agreement": share(found.pairwise),
      "Krippendorff's alpha": decimal(found.alpha),
      "First shown wins": position.of
        ? `${percent(position.rate)} (${percent(position.low)} to ${percent(position.high)})` : "–",
      "Against own ratings": found.against_ratings,
    }),
    ...table("People", ["Name", "Group", "Judged", "Ties", "Skips", "Seconds", "First shown wins"],
      found.annotators.map((each) => [
        each.name, each.group || "–", each.judgements, each.ties, each.skips,
        each.median_seconds === null ? "–" : each.median_seconds.toFixed(1), percent(each.shown_first_wins.rate),
      ])),
    ...table("Two by two", ["People", "Cohen's kappa"],
      Object.entries(found.kappa).map(([pair, kappa]) => [pair, decimal(kappa)])),
    ...table("Groups", ["Group", "Agreement", "Alpha"], groups(found)),
    ...disputed(found.disputed),
  );
}

function facts(values) {
  return h("dl", { className: "facts" }, ...Object.entries(values).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
}

function groups({ within_groups: within, between_groups: between, alpha_in_groups: alpha }) {
  return [
    ...Object.entries(within).map(([name, rate]) => [name || "No group", share(rate), decimal(alpha[name] ?? null)]),
    ...Object.entries(between).map(([name, rate]) => [`Between ${name}`, share(rate), "–"]),
  ];
}

function table(title, columns, rows) {
  if (!rows.length) return [];
  const head = h("tr", {}, ...columns.map((column) => h("th", { scope: "col" }, column)));
  const body = rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, String(cell)))));
  return [
    h("h2", {}, title),
    h("div", { className: "table-scroll", tabIndex: 0, role: "region", "aria-label": title },
      h("table", { className: "figures" }, h("thead", {}, head), h("tbody", {}, ...body))),
  ];
}

function disputed(found) {
  if (!found.length) return [];
  return [
    h("h2", {}, "What groups disagree on most"),
    h("ol", { className: "disputed" }, ...found.map((each) => h("li", {},
      h("p", { className: "question" }, each.prompt || "(empty)"),
      h("dl", {}, ...["first", "second"].map((side, at) =>
        h("div", {}, h("dt", {}, "AB"[at]), h("dd", {}, each[side] || "(empty)")))),
      h("p", { className: "muted" }, Object.entries(each.votes).map(([group, votes]) => said(group, votes)).join(" · ")),
    ))),
  ];
}

function said(group, votes) {
  const counted = { first: "A", second: "B", tie: "tie" };
  const parts = Object.entries(counted).flatMap(([choice, name]) => (votes[choice] ? [`${name} ${votes[choice]}`] : []));
  return `${group || "No group"}: ${parts.join(", ")}`;
}
