/** The folder's documents: what was read and what was not, how far the index is, its sync. */

import { fetchJson, sentence } from "./api.js";
import { announcer, byId, h } from "./dom.js";
import { forgetDocuments, openSource } from "./source.js";

const SHOWN = 200; // rows at first, and more at a time
const POLL = 1000; // ms between two looks at a sync that runs

let listing = null;
let listener = () => {};
let limit = SHOWN;
let timer = null;
const made = new Map();

/** Show a listing; `onchange` is called with it and with every later one. */
export function startDocuments(found, onchange) {
  listener = onchange;
  byId("sync").addEventListener("click", sync);
  byId("documents-filter").addEventListener("input", () => {
    limit = SHOWN;
    showRows();
  });
  byId("documents-more").addEventListener("click", () => {
    const next = limit;
    limit += SHOWN;
    showRows();
    byId("documents-rows").rows[next]?.querySelector("button")?.focus();
  });
  accept(found);
}

/** Look again, as when the view is opened. */
export async function refreshDocuments() {
  try {
    accept(await fetchJson("api/documents"));
  } catch (error) {
    fail(error.message);
  }
}

async function sync() {
  if (listing.sync.state === "running") return;
  try {
    const state = await fetchJson("api/sync", { body: {} });
    accept({ ...listing, sync: state });
    announcer.say("Syncing the documents.");
    if (state.state !== "running") await refreshDocuments();
  } catch (error) {
    fail(error.message);
  }
}

function accept(found) {
  const before = listing?.sync.state;
  listing = found;
  if (before === "running" && found.sync.state !== "running") {
    forgetDocuments();
    announcer.say(found.sync.state === "failed" ? "The sync failed." : "The documents are in sync.");
  }
  fail(found.sync.state === "failed" ? `The sync failed. ${sentence(found.sync.error)}` : "");
  showFacts();
  showRows();
  listener(found);
  clearTimeout(timer);
  if (found.sync.state === "running") timer = setTimeout(refreshDocuments, POLL);
}

function fail(message) {
  byId("documents-error").textContent = message;
  byId("documents-error").hidden = !message;
}

function showFacts() {
  const { documents, coverage, folder, sync: state } = listing;
  const skipped = documents.filter(({ status }) => status === "skipped").length;
  const busy = state.state === "running";
  const facts = [
    ["Folder", folder],
    ["Documents", `${documents.length - skipped}${skipped ? `, ${skipped} skipped` : ""}`],
    ["Searched by meaning", coverage === 1 ? "all passages" : `${Math.floor(coverage * 100)}% of the passages`],
    ["Index", busy ? "syncing…" : lastSync(state.last)],
  ];
  byId("documents-facts").replaceChildren(...facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  const button = byId("sync");
  button.classList.toggle("turning", busy);
  button.setAttribute("aria-disabled", String(busy));
  button.querySelector("span").textContent = busy ? "Syncing" : "Sync";
}

function lastSync(last) {
  if (!last) return "as it was when the server started";
  const time = new Date(last.finished * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const changed = Object.entries(last.files).filter(([outcome, count]) => outcome !== "unchanged" && count);
  const what = changed.map(([outcome, count]) => `${count} ${outcome}`).join(", ");
  return `synced at ${time}, ${what || "nothing had changed"}`;
}

function showRows() {
  const wanted = byId("documents-filter").value.trim().toLowerCase();
  const rows = listing.documents.filter(({ name, title }) => (
    !wanted || name.toLowerCase().includes(wanted) || title.toLowerCase().includes(wanted)));
  place(rows.slice(0, limit).map(rowOf));
  byId("documents-count").textContent = wanted ? `${rows.length} of ${listing.documents.length}` : "";
  byId("documents-more").hidden = rows.length <= limit;
  byId("documents-more").textContent = `Show ${Math.min(SHOWN, rows.length - limit)} more of ${rows.length}`;
}

/** Put rows into the table; one that is there already stays as it is, with the focus that it may have. */
function place(rows) {
  const body = byId("documents-rows");
  if (rows.length === body.rows.length && rows.every((row, index) => row === body.rows[index])) return;
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  body.replaceChildren(...rows);
  if (focused?.isConnected) focused.focus();
}

/** The row of a document; the one that there was while nothing about the document has changed. */
function rowOf(info) {
  const state = JSON.stringify(info);
  if (made.get(info.name)?.state !== state) made.set(info.name, { state, row: makeRow(info) });
  return made.get(info.name).row;
}

function makeRow(info) {
  const { name, title, status, reason, notes, pages, chunks, embedded, size } = info;
  const read = status !== "skipped";
  const heading = read ? h("button", { type: "button", className: "link" }, name) : h("span", {}, name);
  if (read) {
    heading.setAttribute("aria-expanded", "false");
    heading.setAttribute("aria-controls", "source");
    heading.addEventListener("click", () => openSource({ file: name }, { opener: heading }));
  }
  const remarks = [title && title !== name ? title : null, read ? null : reason, ...notes].filter(Boolean);
  const whole = embedded === chunks;
  const [state, kind] = !read ? ["Skipped", "skipped"] : whole ? ["Ready", "ready"] : ["Being indexed", "partial"];
  const passages = whole ? String(chunks) : `${embedded} of ${chunks}`;
  // On a narrow screen there is no head, and a number says itself what it counts.
  const cell = (unit, value, className = "") => h("td", { className, "data-unit": unit }, value);
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, heading, ...remarks.map((remark) => h("div", { className: "remark" }, remark))),
    cell("", h("span", { className: `state ${kind}` }, state)),
    read ? cell(pages === 1 ? "page" : "pages", String(pages), "number") : cell("", "–", "number none"),
    read ? cell(chunks === 1 ? "passage" : "passages", passages, "number") : cell("", "–", "number none"),
    cell("", sizeOf(size), "number"),
  );
}

function sizeOf(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const units = ["KiB", "MiB", "GiB"];
  const power = Math.min(units.length, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[power - 1]}`;
}
