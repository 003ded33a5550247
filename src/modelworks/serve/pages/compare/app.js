/** The page of comparisons: its views, and who judges. */

import { announcer, byId } from "../js/dom.js";
import { load, save } from "../js/saved.js";
import { startTheme } from "../js/themes.js";
import { focusJudging, startJudging, switchAnnotator } from "./judge.js";
import { showResults } from "./results.js";

const TITLES = { compare: "Compare", results: "Results" };
const WHO = "compare.who";

function start() {
  startTheme();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address says which view there is
    byId("main").focus();
  });
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("person").addEventListener("click", () => askWho());
  addEventListener("hashchange", () => route(true));
  route(false);
  const who = load(WHO, null);
  if (who?.name) {
    tell(who);
    startJudging(who);
  } else {
    askWho();
  }
}

function route(moved) {
  const view = location.hash === "#/results" ? "results" : "compare";
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== `view-${view}`;
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = `${TITLES[view]} · modelworks`;
  if (moved) announcer.say(TITLES[view]);
  if (view === "results") {
    showResults();
    byId("results-scroll").focus();
  } else {
    focusJudging();
  }
}

function tell({ name, group }) {
  byId("person-name").textContent = group ? `${name} · ${group}` : name;
  byId("person").title = "Change who is judging";
}

/** Ask for a name and a group; once there is one, the question can be left with Escape. */
function askWho() {
  const dialog = byId("who");
  const before = load(WHO, null);
  byId("who-name").value = before?.name ?? "";
  byId("who-group").value = before?.group ?? "";
  dialog.returnValue = "";
  dialog.onclose = () => {
    const who = { name: tidy(byId("who-name").value), group: tidy(byId("who-group").value) };
    if (dialog.returnValue !== "use" || !who.name) {
      if (!before) askWho(); // nobody judges without a name
      return;
    }
    save(WHO, who);
    tell(who);
    if (before) switchAnnotator(who);
    else startJudging(who);
  };
  dialog.showModal();
}

const tidy = (text) => text.replace(/\s+/g, " ").trim();

start();
