/** One run, as its steps come. */

import { HttpError, fetchEvents, fetchJson } from "../js/api.js";
import { announcer, byId, failure, follower, h } from "../js/dom.js";
import { stateName } from "./runs.js";
import { Trace } from "./trace.js";

const AGAIN = 1000;

let opened = null; // { id, abort, trace }
let follow = null;

export function startRunView() {
  follow = follower(byId("run-scroll"));
  byId("halt").addEventListener("click", halt);
  byId("waiting").addEventListener("click", () => {
    const box = document.querySelector(".asked");
    box?.scrollIntoView({ block: "center" });
    box?.querySelector("button").focus();
  });
}

export function closeRun() {
  opened?.abort.abort();
  opened = null;
}

export function openRun(id) {
  const trace = new Trace(byId("trace"), { decide, reply, grown: () => follow.follow(false, document.querySelector(".asked")) });
  opened = { id, abort: new AbortController(), trace, after: 0, waiting: 0 };
  byId("trace").replaceChildren();
  byId("run-problem").replaceChildren();
  tell("running");
  watch(opened);
}

/** Take in what there is and what comes, over lost connections as well. */
async function watch(run) {
  for (;;) {
    try {
      const path = `../api/runs/${encodeURIComponent(run.id)}/events?after=${run.after}`;
      for await (const { name, data } of fetchEvents(path, { signal: run.abort.signal })) {
        if (run !== opened) return;
        byId("run-problem").replaceChildren();
        if (name === "state") return ended(run, data);
        take(run, name, data);
      }
    } catch (error) {
      if (error.name === "AbortError" || run !== opened) return;
      if (!(error instanceof HttpError)) throw error;
      byId("run-problem").replaceChildren(failure(error.message));
      if (error.status) return tell("");
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN));
    if (run !== opened) return;
  }
}

function take(run, name, data) {
  if (name === "entry") {
    run.after = data.sequence;
    const said = run.trace.add(data);
    if (said) announcer.say(said);
  } else if (name === "asked") {
    if (data.length > run.waiting) announcer.say(`Waits for you: ${data.at(-1).why}.`);
    run.waiting = data.length;
    run.trace.ask(data);
  }
  tell("running", run.waiting);
}

function ended(run, { state, failed }) {
  run.waiting = 0;
  run.trace.ask([]);
  tell(state);
  if (failed) byId("run-problem").replaceChildren(failure(failed));
  const again = run.trace.end(state);
  if (again) again.addEventListener("click", () => reply(null));
}

function tell(state, waiting = 0) {
  byId("run-state").className = `run-state is-${waiting ? "waiting" : state}`;
  byId("run-state").textContent = state ? stateName(state, waiting) : "";
  byId("halt").hidden = state !== "running";
  byId("halt").disabled = false;
  byId("waiting").hidden = !waiting;
  byId("waiting").textContent = waiting === 1 ? "1 call waits" : `${waiting} calls wait`;
  byId("run-working").hidden = state !== "running" || waiting > 0;
  document.title = `${waiting ? "(!) " : ""}Run · modelworks`;
  follow.follow(false, document.querySelector(".asked"));
}

async function halt() {
  byId("halt").disabled = true;
  await attempt(() => fetchJson(`../api/runs/${encodeURIComponent(opened.id)}/halt`, { body: {} }));
}

function decide(said) {
  return fetchJson("../api/decisions", { body: said });
}

/** Go on with the run: after an answer to its question, or as it is. */
async function reply(text) {
  const { id, after, trace } = opened;
  const body = text === null ? {} : { reply: text };
  if (!(await attempt(() => fetchJson(`../api/runs/${encodeURIComponent(id)}/resume`, { body })))) return;
  trace.goOn();
  opened = { ...opened, after };
  tell("running");
  watch(opened);
}

async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof HttpError)) throw error;
    byId("run-problem").replaceChildren(failure(error.message));
    byId("halt").disabled = false;
    return false;
  }
}
