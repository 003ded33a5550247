/**
 * Judging: one comparison after the other, by keys or buttons.
 *
 * A judgement is kept in the browser before it is sent and until the server has it, so that neither a lost connection
 * nor a closed tab loses it; the server takes the same one twice as one.
 */

import { HttpError, fetchJson } from "../js/api.js";
import { announcer, byId, failure, h } from "../js/dom.js";
import { MarkdownView } from "../js/markdown.js";
import { load, save } from "../js/saved.js";
import { clearRatings, fillRatings, focusRatings, readRatings, startRatings } from "./ratings.js";

const PENDING = "compare.pending";
const KEYS = { 1: "1", ArrowLeft: "1", 2: "2", ArrowRight: "2", t: "tie", s: "skip" };
const SAID = { 1: "Answer 1 was better.", 2: "Answer 2 was better.", tie: "A tie.", skip: "Skipped." };
const ROLES = { user: "User", assistant: "Assistant", system: "System", tool: "Tool" };

let who = null;
let current = null; // the comparison on the page; null where there is none
let busy = true;
let stuck = false; // something went wrong, and only its button leads on
const watch = stopwatch();

export function startJudging(person) {
  who = person;
  startRatings();
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", () => choose(button.dataset.choice));
  }
  byId("undo").addEventListener("click", undo);
  document.addEventListener("keydown", onKey);
  addEventListener("online", () => document.querySelector("#problem button")?.click());
  proceed();
}

export function switchAnnotator(person) {
  who = person;
  proceed();
}

/** The place where keys judge. */
export function focusJudging() {
  if (current) byId("compare-scroll").focus();
}

/** Send what is still to be sent, or else ask for the next comparison. */
function proceed() {
  const pending = load(PENDING, null);
  return pending ? send(pending) : run(() => fetchJson("../api/next", { body: { annotator: who.name } }), proceed);
}

function send(judgement) {
  return run(async () => {
    const found = await fetchJson("../api/judgements", { body: judgement });
    localStorage.removeItem(`modelworks.${PENDING}`);
    if (judgement.annotator !== who.name) return fetchJson("../api/next", { body: { annotator: who.name } });
    announcer.say(SAID[judgement.choice]);
    return found;
  }, proceed);
}

function choose(choice) {
  if (busy || stuck || !current) return;
  const judgement = {
    annotator: who.name,
    group: who.group,
    comparison: current,
    choice,
    ratings: readRatings(),
    comment: byId("comment").value.trim(),
    seconds: Math.round(watch.seconds() * 100) / 100,
  };
  save(PENDING, judgement);
  send(judgement);
}

function undo() {
  if (busy || stuck || byId("undo").disabled) return;
  run(() => fetchJson("../api/undo", { body: { annotator: who.name } }), proceed).then(() => {
    if (!stuck) announcer.say("The last judgement was taken back.");
  });
}

/** Do what gives the next state, and show that; where it fails, say so and offer to try `again`. */
async function run(work, again) {
  setBusy(true);
  let found;
  try {
    found = await work();
  } catch (error) {
    setBusy(false);
    fail(error, again);
    if (!(error instanceof HttpError)) throw error;
    return;
  }
  stuck = false;
  byId("problem").replaceChildren();
  show(found);
  setBusy(false);
}

function fail(error, again) {
  const pending = load(PENDING, null);
  // What the server will never take is no reason to go no further.
  const refused = [400, 404, 409].includes(error.status);
  if (pending && refused) localStorage.removeItem(`modelworks.${PENDING}`);
  const kept = pending && !refused ? " Your judgement is kept in this browser." : "";
  const button = h("button", { type: "button", className: "outlined" }, refused ? "Go on" : "Try again");
  button.addEventListener("click", again);
  stuck = true;
  setBusy(false);
  byId("problem").replaceChildren(failure(error.message + kept, button));
  byId("compare-scroll").scrollTop = 0;
  button.focus();
}

function setBusy(value) {
  busy = value;
  for (const button of document.querySelectorAll("#verdict button")) {
    button.setAttribute("aria-disabled", String(value || stuck));
  }
}

// --- what is seen

function show({ comparison, progress, judgement }) {
  current = comparison?.id ?? null;
  byId("comparison").hidden = !comparison;
  byId("finished").hidden = Boolean(comparison);
  byId("verdict").hidden = !comparison && !progress.done;
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.hidden = !comparison;
    button.setAttribute("aria-pressed", String(button.dataset.choice === judgement?.choice));
  }
  byId("undo").disabled = !progress.done;
  tellProgress(progress, comparison);
  clearRatings();
  byId("comment").value = "";
  if (!comparison) return;
  byId("prompt").replaceChildren(...turns(comparison.prompt, comparison.prompt.length > 1));
  comparison.answers.forEach((answer, at) => {
    byId(`said-${at + 1}`).replaceChildren(...turns(answer, answer.length > 1));
  });
  if (judgement) {
    fillRatings(judgement.ratings);
    byId("comment").value = judgement.comment;
    byId("extras").open ||= Boolean(judgement.comment) || judgement.ratings.some((each) => Object.keys(each).length);
  }
  byId("compare-scroll").scrollTop = 0;
  if (!byId("view-compare").hidden && !document.querySelector("dialog[open]")) focusJudging();
  watch.restart();
}

function tellProgress({ done, left }, comparison) {
  byId("progress").max = Math.max(1, done + left);
  byId("progress").value = done;
  byId("progress-text").textContent = `${done} done, ${left} left`;
  if (comparison) return;
  byId("finished-text").textContent = left
    ? `Others are judging the last ${left} just now. Come back in a quarter of an hour: what they leave is yours.`
    : done ? `You have judged ${done}.` : "There is nothing that wants a judgement.";
}

/** Turns, each under who said it where there are several; a model's are Markdown, all others are text. */
function turns(said, named) {
  return said.map(({ role, text }) => {
    const turn = h("div", { className: `turn ${role}` });
    if (named) turn.append(h("p", { className: "small-heading" }, ROLES[role] ?? role));
    const body = h("div", { className: role === "assistant" ? "markdown" : "plain" });
    if (!text.trim()) body.append(h("p", { className: "muted" }, "(empty)"));
    else if (role === "assistant") new MarkdownView(body).update(text);
    else body.textContent = text;
    turn.append(body);
    return turn;
  });
}

// --- keys

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (byId("view-compare").hidden || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") return void byId("compare-scroll").focus();
  if (event.target.matches("textarea, input, select")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  // A key that is held down says one thing once.
  const actions = { u: undo, r: rate, c: comment, "?": () => byId("help").showModal() };
  const act = KEYS[key] ? () => choose(KEYS[key]) : actions[key];
  if (!act) return;
  event.preventDefault();
  if (!event.repeat) act();
}

function rate() {
  if (!current) return;
  byId("extras").open = true;
  focusRatings();
}

function comment() {
  if (!current) return;
  byId("extras").open = true;
  byId("comment").focus();
}

// --- time

/** The seconds for which a comparison was seen: time in which the page is hidden is no thinking. */
function stopwatch() {
  let total = 0;
  let since = null;
  const go = () => { since = document.hidden ? null : performance.now(); };
  document.addEventListener("visibilitychange", () => {
    if (since !== null) total += performance.now() - since;
    go();
  });
  return {
    restart() { total = 0; go(); },
    seconds: () => (total + (since === null ? 0 : performance.now() - since)) / 1000,
  };
}
