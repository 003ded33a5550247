/** The list of runs, and the form that begins one. */

import { fetchJson } from "../js/api.js";
import { announcer, byId, failure, growing, h } from "../js/dom.js";
import { load, save } from "../js/saved.js";

const UNCHOSEN = "agents.unchosen"; // what is kept is what somebody took out, so that a new tool is in
const POLL = 2000;
const STATES = {
  running: "Running",
  interrupted: "Interrupted",
  answer: "Answered",
  question: "Asks you",
  stop: "Stopped",
};
const RULES = { always: "", ask: "asks first", never: "not allowed" };

let ready = null; // resolves once the tools are there to be chosen from
let timer = null;
let shown = "";

export function stateName(state, waiting = 0) {
  return waiting ? "Waits for you" : STATES[state] ?? state;
}

/** Effects as small words, and what the policy says to the tool. */
export function badges(effects, rule = "") {
  const said = rule ? RULES[rule] : "";
  return h(
    "span",
    { className: "badges" },
    ...effects.map((effect) => h("span", { className: `badge ${effect}` }, effect)),
    said && h("span", { className: "muted" }, said),
  );
}

export function startRunsView(about) {
  const form = byId("begin");
  growing(byId("task"));
  byId("task").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    begin();
  });
  ready = about.then(({ tools }) => showTools(tools));
  ready.catch(problem);
}

function showTools(tools) {
  const unchosen = new Set(load(UNCHOSEN, []));
  byId("tools").replaceChildren(...tools.map((tool) => {
    const box = h("input", { type: "checkbox", name: tool.name, checked: !unchosen.has(tool.name) });
    box.addEventListener("change", () => {
      if (box.checked) unchosen.delete(tool.name);
      else unchosen.add(tool.name);
      save(UNCHOSEN, [...unchosen]);
      countTools();
    });
    const said = tool.description.split("\n")[0];
    const source = tool.source && h("span", { className: "muted" }, `from ${tool.source}`);
    return h("li", {}, h("label", {}, box, h("span", {}, h("code", {}, tool.name), " ", badges(tool.effects, tool.rule),
      source, h("span", { className: "remark" }, said))));
  }));
  byId("tools-details").hidden = !tools.length;
  countTools();
}

const boxes = () => [...document.querySelectorAll("#tools input")];

function countTools() {
  const all = boxes();
  byId("tools-count").textContent = `${all.filter((box) => box.checked).length} of ${all.length}`;
}

async function begin() {
  const task = byId("task").value.trim();
  if (!task || byId("start").disabled) return;
  byId("start").disabled = true;
  try {
    await ready;
    const tools = boxes().filter((box) => box.checked).map((box) => box.name);
    const { id } = await fetchJson("../api/runs", { body: { task, tools } });
    byId("task").value = "";
    byId("runs-problem").replaceChildren();
    location.hash = `#/run/${encodeURIComponent(id)}`;
  } catch (error) {
    problem(error);
  } finally {
    byId("start").disabled = false;
  }
}

function problem(error) {
  byId("runs-problem").replaceChildren(failure(error.message));
}

export function showRuns() {
  hideRuns();
  refresh();
}

export function hideRuns() {
  clearTimeout(timer);
  timer = null;
}

async function refresh() {
  const mine = (timer = setTimeout(refresh, POLL));
  if (document.hidden && shown) return;
  let found;
  try {
    found = (await fetchJson("../api/runs")).runs;
  } catch (error) {
    if (mine === timer) problem(error);
    return;
  }
  const text = JSON.stringify(found);
  if (text === shown) return;
  if (shown && found.some((run) => run.waiting) && !JSON.parse(shown).some((run) => run.waiting)) {
    announcer.say("A run waits for you.");
  }
  shown = text;
  byId("runs-empty").hidden = found.length > 0;
  const focused = document.activeElement.closest("#runs a")?.getAttribute("href");
  byId("runs").replaceChildren(...found.map(row));
  if (focused) [...document.querySelectorAll("#runs a")].find((link) => link.getAttribute("href") === focused)?.focus();
}

function row(run) {
  const when = new Date(run.created);
  const kind = run.waiting ? "waiting" : run.state;
  return h("li", {}, h("a", { className: "run-row", href: `#/run/${encodeURIComponent(run.id)}` },
    h("span", { className: "run-task" }, run.task),
    h("span", { className: "run-about" },
      h("span", { className: `run-state is-${kind}` }, stateName(run.state, run.waiting)),
      h("time", { dateTime: run.created, title: when.toLocaleString() }, when.toLocaleString([], {
        dateStyle: "medium", timeStyle: "short",
      })),
      run.end ? h("span", { className: "run-end" }, run.end.text) : null)));
}
