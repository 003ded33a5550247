/** What outlives the page, in this browser only. */

const PREFIX = "modelworks.";

/** What was saved under a name, or `otherwise` where there is nothing that can be read. */
export function load(name, otherwise) {
  const text = localStorage.getItem(PREFIX + name);
  if (text === null) return otherwise;
  try {
    return JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** Save a value; of a list that is too long for the browser, its latest part. */
export function save(name, value) {
  for (let kept = value; ; kept = kept.slice(Math.ceil(kept.length / 2))) {
    try {
      localStorage.setItem(PREFIX + name, JSON.stringify(kept));
      return;
    } catch (error) {
      if (error.name !== "QuotaExceededError" || !Array.isArray(kept) || kept.length === 0) throw error;
    }
  }
}
