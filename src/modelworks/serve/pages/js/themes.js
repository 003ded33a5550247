/** The button that changes between light and dark; `theme.js` applies what was chosen before the page is painted. */

import { byId } from "./dom.js";

export function startTheme() {
  const button = byId("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const name = () => {
    button.setAttribute("aria-label", isDark() ? "Use the light theme" : "Use the dark theme");
    button.title = button.getAttribute("aria-label");
  };
  button.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    // The same as the system's is no choice: the page then follows the system again.
    if ((next === "dark") === dark.matches) {
      delete root.dataset.theme;
      localStorage.removeItem("modelworks.theme");
    } else {
      root.dataset.theme = next;
      localStorage.setItem("modelworks.theme", next);
    }
    name();
  });
  dark.addEventListener("change", name);
  name();
}
