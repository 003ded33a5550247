/** Chat with a model: messages, streaming, stop, another answer, tool calls, settings. */

import { fetchEvents, sentence } from "./api.js";
import { announcer, byId, composer, copyButton, failure, follower, h, icon } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { closePanel, isOpen, openPanel } from "./panel.js";
import { load, save } from "./saved.js";

const SETTINGS = { system: "", temperature: "", limit: "", tools: "" };
const PAUSE = 60; // ms between two renderings of a text that grows

/**
 * What was said, as the API's messages with a little more: an assistant's `note` says why it ended early, `error` what
 * went wrong, `speed` how fast it was.
 */
let messages = load("chat", []);
let settings = { ...SETTINGS, ...load("settings", {}) };
let running = null;
let writer;
let scrolled;

export function startChat(models) {
  const select = byId("chat-model");
  select.replaceChildren(...models.map((name) => h("option", { value: name }, name)));
  const chosen = load("model", null);
  if (models.includes(chosen)) select.value = chosen;
  const named = () => {
    byId("chat-name").textContent = select.value;
  };
  select.addEventListener("change", () => {
    save("model", select.value);
    named();
  });
  named();

  scrolled = follower(byId("chat-scroll"));
  writer = composer(byId("chat-form"), { submit: say, stop: () => running?.abort() });
  byId("chat-clear").addEventListener("click", clear);
  startSettings();
  show();
}

export const focusChat = () => writer.focus();

function say(text) {
  messages.push({ role: "user", content: text });
  show();
  return generate();
}

function clear() {
  running?.abort();
  messages = [];
  save("chat", messages);
  show();
  announcer.say("The conversation is cleared.");
  writer.focus();
}

/** Drop the last answer, with its failures and calls, and have another. */
function regenerate() {
  const last = messages.findLastIndex((message) => message.role === "user");
  messages = messages.slice(0, last + 1);
  show();
  byId("chat-scroll").focus();
  return generate();
}

/** The messages as the API takes them; answers that failed before their first word are none. */
function conversation() {
  const told = messages
    .filter(({ role, content, tool_calls }) => role !== "assistant" || content || tool_calls?.length)
    .map(({ role, content, tool_calls, tool_call_id }) => ({
      role,
      content,
      ...(tool_calls?.length && { tool_calls }),
      ...(tool_call_id && { tool_call_id }),
    }));
  return settings.system.trim() ? [{ role: "system", content: settings.system }, ...told] : told;
}

function requestBody() {
  const body = {
    model: byId("chat-model").value,
    messages: conversation(),
    stream: true,
    stream_options: { include_usage: true },
  };
  if (settings.temperature !== "") body.temperature = Number(settings.temperature);
  if (settings.limit !== "") body.max_completion_tokens = Number(settings.limit);
  if (settings.tools.trim()) body.tools = JSON.parse(settings.tools);
  return body;
}

async function generate() {
  const body = requestBody();
  const answer = { role: "assistant", content: "", tool_calls: [] };
  messages.push(answer);
  running = new AbortController();
  const mine = running;
  writer.setBusy(true);
  const view = new AnswerView(answer);
  byId("chat-thread").append(view.element);
  scrolled.follow(true);
  const began = performance.now();
  let first = null;
  let reason = null;
  let tokens = 0;
  try {
    for await (const { data } of fetchEvents("v1/chat/completions", { body, signal: mine.signal })) {
      if (data.error) throw new Error(sentence(data.error.message));
      const choice = data.choices[0];
      tokens = data.usage?.completion_tokens ?? tokens;
      if (!choice) continue;
      reason = choice.finish_reason ?? reason;
      const { content, tool_calls } = choice.delta;
      if (content) {
        first ??= performance.now();
        answer.content += content;
        announcer.stream(content);
      }
      for (const call of tool_calls ?? []) addCall(answer.tool_calls, call);
      if (content || tool_calls) view.grow();
    }
    if (reason === null) throw new Error("The connection ended before the answer was whole.");
    if (reason === "length") answer.note = "Ended at the limit of tokens";
  } catch (error) {
    if (mine.signal.aborted) answer.note = "Stopped";
    else answer.error = error.message;
  }
  if (first !== null && tokens > 1) {
    const speed = (tokens - 1) / Math.max(0.001, (performance.now() - first) / 1000);
    const wait = ((first - began) / 1000).toFixed(2);
    answer.speed = `${tokens} tokens, ${speed.toFixed(speed < 10 ? 1 : 0)} per second after ${wait} s`;
  }
  announcer.end();
  if (answer.note) announcer.say(`${answer.note}.`);
  if (running === mine) {
    running = null;
    writer.setBusy(false);
  }
  if (!messages.includes(answer)) return; // cleared meanwhile
  view.finish();
  save("chat", messages);
}

/** A piece of a call: `id` tells calls apart, as some servers give several the same index. */
export function addCall(calls, { index, id, function: piece }) {
  const known = calls.findLast((call) => (id ? call.id === id : call.index === index));
  if (known) {
    known.function.arguments += piece?.arguments ?? "";
    return;
  }
  const call = { id: id ?? `call_${calls.length}`, type: "function" };
  call.function = { name: piece?.name ?? "", arguments: piece?.arguments ?? "" };
  Object.defineProperty(call, "index", { value: index }); // for putting pieces together; not part of the message
  calls.push(call);
}

// --- what is seen -----------------------------------------------------------------------------------------------------

function show() {
  const thread = byId("chat-thread");
  thread.replaceChildren();
  for (const message of messages) {
    if (message.role === "user") thread.append(userMessage(message));
    else if (message.role === "tool") thread.append(resultMessage(message));
    else {
      const view = new AnswerView(message);
      thread.append(view.element);
      view.finish();
    }
  }
  byId("chat-empty").hidden = messages.length > 0;
  byId("chat-clear").hidden = messages.length === 0;
  scrolled.follow(true);
}

const userMessage = ({ content }) => h(
  "article",
  { className: "message user" },
  h("h2", { className: "unseen" }, "You"),
  h("div", { className: "bubble", dir: "auto" }, content),
);

const resultMessage = ({ content, tool_call_id }) => h(
  "details",
  { className: "tool" },
  h("summary", {}, icon("tool"), h("span", {}, "Result of "), h("code", {}, nameOf(tool_call_id))),
  h("pre", { tabIndex: 0 }, content),
);

const nameOf = (id) => messages.flatMap(({ tool_calls }) => tool_calls ?? [])
  .find((call) => call.id === id)?.function.name ?? "a call";

/** An answer, while it comes and after. */
class AnswerView {
  constructor(answer) {
    this.answer = answer;
    this.body = h("div", { className: "markdown", dir: "auto" });
    this.calls = h("div", { className: "calls" });
    this.end = h("div", { className: "end" });
    this.element = h("article", { className: "message assistant writing" }, h("h2", { className: "unseen" }, "Model"));
    this.element.append(this.body, this.calls, this.end);
    this.markdown = new MarkdownView(this.body);
    this.timer = null;
  }

  grow() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.render();
      scrolled.follow();
    }, PAUSE);
  }

  render() {
    this.markdown.update(this.answer.content);
    const calls = this.answer.tool_calls ?? [];
    for (const call of calls.slice(this.calls.childElementCount)) this.calls.append(callDetails(call));
  }

  finish() {
    clearTimeout(this.timer);
    const { answer } = this;
    this.calls.replaceChildren();
    this.render();
    this.element.classList.remove("writing");
    const end = [];
    if (answer.error) end.push(failure(answer.error));
    const last = messages.at(-1) === answer;
    if (last && answer.tool_calls?.length) end.push(resultForm(answer.tool_calls));
    const actions = h("div", { className: "actions" });
    if (answer.content) actions.append(copyButton(() => answer.content));
    const again = h("button", { type: "button", className: "quiet small again" }, icon("again"), h("span", {}, "Regenerate"));
    again.addEventListener("click", regenerate);
    actions.append(again);
    const facts = [answer.note, answer.speed].filter(Boolean).join(" · ");
    if (facts) actions.append(h("span", { className: "muted" }, facts));
    end.push(actions);
    this.end.replaceChildren(...end);
    scrolled.follow();
  }
}

function callDetails(call) {
  let text = call.function.arguments;
  try {
    text = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // An answer that was cut off; what there is of the arguments is shown as it is.
  }
  return h(
    "details",
    { className: "tool" },
    h("summary", {}, icon("tool"), h("span", {}, "Calls "), h("code", {}, call.function.name)),
    h("pre", { tabIndex: 0 }, text),
  );
}

/** Where a person gives what the called tools would. */
function resultForm(calls) {
  const form = h("form", { className: "results form" });
  calls.forEach((call, index) => {
    const id = `result-${index}`;
    const several = calls.length > 1 ? ` (${index + 1} of ${calls.length})` : "";
    form.append(
      h("label", { htmlFor: id }, `Result of ${call.function.name}${several}`),
      h("textarea", { id, rows: 2, className: "code", required: true, spellcheck: false }),
    );
  });
  form.append(h("button", { className: "outlined" }, "Continue"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const results = [...form.querySelectorAll("textarea")].map((area) => area.value);
    calls.forEach((call, index) => messages.push({ role: "tool", tool_call_id: call.id, content: results[index] }));
    show();
    generate();
  });
  return form;
}

// --- settings ---------------------------------------------------------------------------------------------------------

function startSettings() {
  const form = byId("settings-form");
  const panel = byId("settings");
  const opener = byId("chat-settings");
  const fill = () => {
    for (const name of Object.keys(SETTINGS)) form.elements[name].value = settings[name];
  };
  fill();
  opener.addEventListener("click", () => {
    if (isOpen(panel)) closePanel();
    else openPanel(panel, { opener, focus: form.elements.system });
  });
  form.addEventListener("input", () => {
    const wrong = settingsFault(form);
    byId("settings-error").textContent = wrong ?? "";
    byId("settings-error").hidden = !wrong;
    if (wrong) return;
    for (const name of Object.keys(SETTINGS)) settings[name] = form.elements[name].value;
    save("settings", settings);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    settings = { ...SETTINGS };
    fill();
    byId("settings-error").hidden = true;
    save("settings", settings);
  });
}

/** What is wrong with the settings as they stand; they take effect when nothing is. */
function settingsFault(form) {
  for (const name of ["temperature", "limit"]) {
    const field = form.elements[name];
    const label = field.labels[0].textContent;
    if (!field.checkValidity()) return `${label}: ${field.validationMessage}`;
  }
  const tools = form.elements.tools.value.trim();
  if (!tools) return null;
  try {
    return Array.isArray(JSON.parse(tools)) ? null : "Tools: this is JSON, but not an array.";
  } catch (error) {
    return `Tools: ${error.message}.`;
  }
}
