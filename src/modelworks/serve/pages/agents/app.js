/** The page of agents: its views. */

import { fetchJson } from "../js/api.js";
import { announcer, byId } from "../js/dom.js";
import { startTheme } from "../js/themes.js";
import { closeRun, openRun, startRunView } from "./run.js";
import { hideRuns, showRuns, startRunsView } from "./runs.js";

async function start() {
  startTheme();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address says which view there is
    byId("main").focus();
  });
  const about = fetchJson("../api/agents");
  startRunView();
  startRunsView(about);
  addEventListener("hashchange", () => route(true));
  route(false);
  const { agent, model } = await about.catch(() => ({ agent: "", model: "" })); // the view of runs says what is wrong
  byId("model").textContent = [agent, model].filter(Boolean).join(" · ");
}

function route(moved) {
  const id = /^#\/run\/(.+)$/.exec(location.hash)?.[1];
  const view = id ? "run" : "runs";
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== `view-${view}`;
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  closeRun();
  hideRuns();
  document.title = `${id ? "Run" : "Runs"} · modelworks`;
  if (moved) announcer.say(id ? "Run" : "Runs");
  if (id) openRun(decodeURIComponent(id));
  else showRuns();
  if (moved) byId(id ? "run-scroll" : "runs-scroll").focus();
}

start();
