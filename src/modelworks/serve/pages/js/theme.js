// Runs before the page is first painted, so that a chosen theme does not flash in after the system's.
{
  const chosen = localStorage.getItem("modelworks.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
