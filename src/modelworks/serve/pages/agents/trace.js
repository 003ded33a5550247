/**
 * A run's entries as elements. What tools return, what a model writes and what it calls with is somebody's text: it is
 * shown as text, and an answer as Markdown that loads nothing.
 */

import { h } from "../js/dom.js";
import { MarkdownView } from "../js/markdown.js";
import { approval } from "./approval.js";
import { exact, taints } from "./exact.js";
import { badges } from "./runs.js";

const SUMMARY = 140;

export class Trace {
  /** `decide` answers a request, `reply` a question; `grown` is called when something was added. */
  constructor(element, { decide, reply, grown }) {
    Object.assign(this, { element, decide, reply, grown });
    this.places = new Map(); // where the steps of a run go, by its id
    this.calls = new Map(); // by run and call
    this.origins = new Map(); // what a run has read, by its id
    this.asked = new Map(); // the boxes of what waits, by run and call
  }

  /** Show an entry; what is to be said of it aloud, or "". */
  add({ run, kind, body, time }) {
    const place = this.places.get(run) ?? this.place(run, body);
    const said = this[`on${kind[0].toUpperCase()}${kind.slice(1)}`]?.(place, body, run, time) ?? "";
    this.grown();
    return said;
  }

  /** Where a run's steps go: a sub-agent's into the call that it answers. */
  place(run, body) {
    const cut = run.lastIndexOf(".");
    const parent = cut < 0 ? null : run.slice(0, cut);
    let place = this.element;
    if (parent !== null && (this.places.has(parent) || this.places.size)) {
      place = h("div", { className: "part", role: "group", "aria-label": body.agent ?? "sub-agent" });
      const call = this.calls.get(`${parent} ${run.slice(cut + 1)}`);
      if (call) call.result.before(place);
      else (this.places.get(parent) ?? this.element).append(place);
    }
    this.places.set(run, place);
    this.origins.set(run, new Set());
    return place;
  }

  // --- one method for each kind of entry

  onTask(place, { task, agent, model }, run, time) {
    const about = [agent, model, new Date(time).toLocaleString()].filter(Boolean).join(" · ");
    place.append(h("div", { className: "said-by user" }, h("p", { className: "small-heading" }, about),
      h("p", { className: "question" }, task)));
  }

  onRecall(place, { content, origins }, run) {
    this.read(run, origins);
    place.append(folded("From memory", content, origins));
  }

  onReply(place, { text, calls }, run) {
    if (calls.length && text.trim()) place.append(h("p", { className: "thought" }, text.trim()));
    for (const call of calls) this.card(place, run, call);
    if (!calls.length && !text.trim()) place.append(h("p", { className: "muted" }, "The model wrote nothing."));
  }

  onCall(place, body, run) {
    const card = this.calls.get(`${run} ${body.call}`);
    if (!card) return "";
    card.effects.replaceChildren(badges(body.effects, body.rule));
    card.acts = body.effects.some((effect) => effect !== "reads");
    this.show(card, body.arguments, body.tainted);
    return `Calls ${body.tool}.`;
  }

  onEdit(place, body, run) {
    const card = this.calls.get(`${run} ${body.call}`);
    card?.notes.append(h("p", {}, "The arguments were changed."));
    if (card) this.show(card, body.arguments, []);
  }

  onDecision(place, body, run) {
    const card = this.calls.get(`${run} ${body.call}`);
    if (!card) return "";
    const by = body.by ? ` by ${body.by}` : "";
    const changed = body.arguments ? ", with other arguments" : "";
    const reason = body.reason ? `: ${body.reason}` : "";
    card.notes.append(h("p", { className: body.allow ? "allowed" : "refused" },
      `${body.allow ? "Allowed" : "Refused"}${by}${changed}${reason}`));
    if (body.arguments) this.show(card, body.arguments, []);
    return "";
  }

  onIntent(place, body, run) {
    const card = this.calls.get(`${run} ${body.call}`);
    if (!card) return;
    card.begun = true;
    this.status(card, "running", "running");
  }

  onResult(place, { call, content, error, seconds, origins, unknown }, run) {
    const card = this.calls.get(`${run} ${call}`);
    if (!card) return "";
    this.read(run, origins.length || !card.begun ? origins : [card.tool]);
    const how = unknown ? "stopped: it may have taken effect" : error ? "failed" : "done";
    this.status(card, error ? "failed" : "done", seconds >= 0.05 ? `${how} · ${seconds.toFixed(1)} s` : how);
    card.result.replaceChildren(folded("Result", content, origins, error));
    return error ? `${card.tool} failed.` : "";
  }

  onSaid(place, { text }) {
    place.append(h("div", { className: "said-by user" }, h("p", { className: "question" }, text)));
  }

  onResume(place) {
    this.element.querySelector(".ending")?.remove();
    place.append(h("p", { className: "divider" }, "Gone on with"));
  }

  onEnd(place, { kind, text, why }, run) {
    if (kind === "stop") {
      place.append(h("p", { className: "notice" }, `Stopped (${why}): ${text}`));
      return `Stopped: ${text}.`;
    }
    const body = h("div", { className: "markdown" });
    new MarkdownView(body).update(text);
    const origins = [...this.origins.get(run)].sort();
    const title = kind === "answer" ? "Answer" : "The agent asks";
    place.append(h("section", { className: `ended is-${kind}` }, h("h2", { className: "small-heading" }, title), body,
      origins.length && kind === "answer" ? from("It has read", origins) : null));
    return `${title}. ${text}`;
  }

  // --- calls

  card(place, run, { id, name, arguments: written }) {
    const card = {
      tool: name,
      acts: false, // whether it does more than read
      begun: false,
      effects: h("span", {}),
      state: h("span", { className: "call-state" }),
      body: h("div", { className: "call-body" }),
      notes: h("div", { className: "notes" }),
      wait: h("div", {}),
      result: h("div", {}),
    };
    card.element = h("section", { className: "call", "aria-label": `Call of ${name}` },
      h("div", { className: "call-head" }, h("code", { className: "call-name" }, name), card.effects, card.state),
      card.body, card.wait, card.notes, card.result);
    card.body.append(exact(written || "{}"));
    this.calls.set(`${run} ${id}`, card);
    place.append(card.element);
  }

  show(card, given, tainted) {
    card.body.replaceChildren(exact(JSON.stringify(given, null, 2)), taints(tainted));
    card.element.classList.toggle("tainted", card.acts && tainted.length > 0);
  }

  status(card, kind, text) {
    card.state.className = `call-state ${kind}`;
    card.state.textContent = text;
  }

  read(run, origins) {
    for (let id = run; ; id = id.slice(0, id.lastIndexOf("."))) {
      for (const origin of origins) this.origins.get(id)?.add(origin);
      if (!id.includes(".")) return;
    }
  }

  // --- what waits, and the end

  /** Show what waits, of which nothing that is there already is touched: somebody may be writing in it. */
  ask(requests) {
    const keys = new Map(requests.map((request) => [`${request.run} ${request.call} ${request.digest}`, request]));
    for (const [key, box] of this.asked) {
      if (keys.has(key)) continue;
      const hadFocus = box.contains(document.activeElement);
      box.remove();
      this.asked.delete(key);
      if (hadFocus) (this.element.querySelector(".asked button") ?? this.element.closest(".scroll")).focus();
    }
    for (const [key, request] of keys) {
      if (this.asked.has(key)) continue;
      const card = this.calls.get(`${request.run} ${request.call}`);
      const box = approval(request, this.decide);
      this.asked.set(key, box);
      (card?.wait ?? this.element).append(box);
    }
    for (const card of this.calls.values()) card.element.classList.toggle("waits", card.wait.hasChildNodes());
    this.grown();
  }

  /** What can be done with a run that goes no further by itself; the button that goes on with it, where there is one. */
  end(state) {
    if (state === "question" || state === "answer") {
      const area = h("textarea", { rows: 2, required: true, maxLength: 100000 });
      const name = state === "question" ? "Your reply" : "Go on with this run";
      const form = h("form", { className: "form ending" }, h("label", {}, name, area),
        h("div", { className: "actions" }, h("button", { type: "submit", className: "primary" }, "Send")));
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        if (area.value.trim()) this.reply(area.value.trim());
      });
      this.element.append(form);
      if (state === "question") area.focus();
    } else if (state === "stop" || state === "interrupted") {
      const button = h("button", { type: "button", className: "outlined" }, "Resume");
      const said = state === "interrupted" ? "The run was interrupted. What may have taken effect is asked about." : "";
      this.element.append(h("div", { className: "actions ending" }, button, h("span", { className: "muted" }, said)));
      this.grown();
      return button;
    }
    this.grown();
    return null;
  }

  goOn() {
    this.element.querySelector(".ending")?.remove();
  }
}

/** Text that is long for what it says: its first line, and the whole on demand. */
function folded(title, content, origins, isError = false) {
  const line = content.trim().split("\n")[0] ?? "";
  const first = line.length > SUMMARY ? `${line.slice(0, SUMMARY)}…` : line;
  const details = h("details", { className: `tool${isError ? " wrong" : ""}` },
    h("summary", {}, h("span", { className: "muted" }, title), h("span", { className: "first" }, first)),
    h("pre", { tabIndex: 0 }, content));
  return h("div", { className: "observation" }, details, origins.length ? from("From", origins) : null);
}

function from(said, origins) {
  return h("p", { className: "origins" }, h("span", { className: "muted" }, `${said} `),
    ...origins.map((origin) => h("span", { className: "origin" }, origin)));
}
