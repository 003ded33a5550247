/** What a call that waits looks like to whoever decides: what would be done, to the letter, and why it is asked about. */

import { announcer, failure, growing, h } from "../js/dom.js";
import { exact, taints } from "./exact.js";
import { badges } from "./runs.js";

/** The box of a request; `decide` is called with what was said, and may fail. */
export function approval(request, decide) {
  const given = JSON.stringify(request.arguments, null, 2);
  const problem = h("div", {});
  const area = h("textarea", { className: "code", rows: 4, value: given, spellcheck: false, "aria-label": "Arguments as JSON" });
  const reason = h("input", { maxLength: 1000, placeholder: "Reason, for the model (optional)", "aria-label": "Reason" });
  const editing = h("div", { className: "editing", hidden: true }, area);
  const shown = exact(given);
  const allowButton = h("button", { type: "button", className: "primary" }, "Allow");
  const editButton = h("button", { type: "button", className: "outlined", "aria-expanded": "false" }, "Edit");
  const denyButton = h("button", { type: "button", className: "outlined danger" }, "Deny");
  const buttons = [allowButton, editButton, denyButton];

  async function say(more) {
    for (const button of buttons) button.disabled = true;
    try {
      await decide({ run: request.run, call: request.call, digest: request.digest, ...more });
      announcer.say(more.allow ? "Allowed." : "Denied.");
    } catch (error) {
      problem.replaceChildren(failure(error.message));
      for (const button of buttons) button.disabled = false;
    }
  }

  allowButton.addEventListener("click", () => {
    const changed = !editing.hidden && area.value !== given;
    let others;
    try {
      others = changed ? JSON.parse(area.value) : undefined;
    } catch (error) {
      problem.replaceChildren(failure(`The arguments are no JSON: ${error.message}`));
      return;
    }
    say({ allow: true, arguments: others });
  });
  denyButton.addEventListener("click", () => say({ allow: false, reason: reason.value.trim() || undefined }));
  editButton.addEventListener("click", () => {
    editing.hidden = !editing.hidden;
    shown.hidden = !editing.hidden;
    editButton.setAttribute("aria-expanded", String(!editing.hidden));
    editButton.textContent = editing.hidden ? "Edit" : "Do not edit";
    allowButton.textContent = editing.hidden ? "Allow" : "Allow with these";
    if (!editing.hidden) {
      grow();
      area.focus();
    }
  });
  const grow = growing(area);

  return h("section", { className: `asked${request.tainted.length ? " tainted" : ""}`, role: "group", "aria-label": `Allow ${request.tool}?` },
    h("p", { className: "why" }, `${request.why}.`),
    h("p", { className: "call-head" }, h("code", { className: "call-name" }, request.tool), badges(request.effects),
      h("span", { className: "muted" }, request.agent, request.source && ` · from ${request.source}`)),
    shown, editing, taints(request.tainted),
    h("p", { className: "digest muted", title: `SHA-256 of the tool's definition and these arguments: ${request.digest}` },
      `Allows exactly this call: ${request.digest.slice(0, 16)}`),
    problem,
    h("div", { className: "actions" }, ...buttons, reason));
}
