/** The panel at the side: one at a time, beside the view on a wide screen, in its place on a narrow one. */

import { byId } from "./dom.js";

const narrow = matchMedia("(max-width: 60rem)");
let current = null;

/** Show a panel. `opener` is what gets the focus back; `onclose` is called when the panel is gone. */
export function openPanel(panel, { opener, focus, onclose = () => {} }) {
  if (current !== null && current.panel !== panel) hide();
  else if (current !== null && current.opener !== opener) leave();
  current = { panel, opener, onclose };
  panel.hidden = false;
  opener?.setAttribute("aria-expanded", "true");
  cover();
  (focus ?? panel).focus();
}

/** Close the panel that is open, if any; the focus goes back to what opened it. */
export function closePanel() {
  if (current === null) return;
  const { opener } = current;
  hide();
  if (opener?.isConnected) opener.focus();
  else byId("main").focus();
}

/** Close the panel without moving the focus, as when another view is chosen. */
export function dropPanel() {
  if (current !== null) hide();
}

export const isOpen = (panel) => current?.panel === panel;

function hide() {
  current.panel.hidden = true;
  leave();
  current = null;
  cover();
}

function leave() {
  current.opener?.setAttribute("aria-expanded", "false");
  current.onclose();
}

/** What lies under a panel on a narrow screen must not be reached by Tab. */
function cover() {
  byId("main").inert = current !== null && narrow.matches;
}

narrow.addEventListener("change", cover);
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || current === null || byId("key").open) return;
  event.preventDefault();
  closePanel();
});
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", closePanel);
