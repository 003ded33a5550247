/** The page: which views there are, which is seen, light or dark. */

import { HttpError, fetchJson } from "./api.js";
import { focusAsk, startAsk, tellFolder } from "./ask.js";
import { focusChat, startChat } from "./chat.js";
import { announcer, byId, failure, h } from "./dom.js";
import { refreshDocuments, startDocuments } from "./documents.js";
import { dropPanel } from "./panel.js";
import { startTheme } from "./themes.js";

const TITLES = { ask: "Ask", chat: "Chat", documents: "Documents" };
const focusOn = { ask: focusAsk, chat: focusChat, documents: refreshDocuments };
const coarse = matchMedia("(pointer: coarse)");
let views = ["chat"];

async function start() {
  startTheme();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address says which view there is
    byId("main").focus();
  });
  try {
    const [models, documents] = await Promise.all([chatModels(), folder()]);
    startChat(models);
    if (documents) {
      views = ["ask", "chat", "documents"];
      startAsk();
      startDocuments(documents, tellFolder);
    }
  } catch (error) {
    const again = h("button", { type: "button", className: "outlined" }, "Try again");
    again.addEventListener("click", () => location.reload());
    byId("main").append(failure(error.message, again));
    if (!(error instanceof HttpError)) throw error;
    return;
  }
  for (const tab of document.querySelectorAll(".tabs a")) tab.hidden = !views.includes(tab.dataset.view);
  addEventListener("hashchange", () => route(true));
  route(false);
}

/** The names of the models that chat; those that make vectors are listed beside them. */
async function chatModels() {
  const { data } = await fetchJson("v1/models");
  return data.filter(({ type }) => type !== "embedding").map(({ id }) => id);
}

/** The documents; null where the server has no folder. */
async function folder() {
  try {
    return await fetchJson("api/documents");
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

function route(moved) {
  const asked = location.hash.replace(/^#\//, "");
  const view = views.includes(asked) ? asked : views[0];
  dropPanel();
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== `view-${view}`;
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = `${TITLES[view]} · modelworks`;
  if (moved) announcer.say(TITLES[view]);
  // On a touch screen a focus would bring up the keyboard and cover half of what there is to read.
  if (!coarse.matches || view === "documents") focusOn[view]();
}

start();
