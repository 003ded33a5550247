"use strict";
// What stands under the pointer; without this script the page shows all else.
const data = JSON.parse(document.getElementById("points").textContent);
const tip = document.createElement("pre");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);

const told = (value) =>
  Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));

for (const chart of document.querySelectorAll("svg[data-ends]")) {
  const [start, end, low, high] = chart.dataset.ends.split(" ").map(Number);
  const axis = data.columns.indexOf(chart.dataset.axis);
  const shown = JSON.parse(chart.dataset.columns).map((name) => data.columns.indexOf(name));
  const hair = document.createElementNS("http://www.w3.org/2000/svg", "line");
  hair.setAttribute("class", "muted-drawn");
  hair.setAttribute("y2", chart.viewBox.baseVal.height);

  const show = (event) => {
    const box = chart.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    const value = low + ((place - start) / (end - start)) * (high - low);
    const lines = [];
    let at = place;
    for (const run of data.runs) {
      const rows = run.rows.filter((row) => shown.some((column) => row[column] !== null));
      if (!rows.length) continue;
      const far = (row) => Math.abs(row[axis] - value);
      const row = rows.reduce((best, next) => (far(next) < far(best) ? next : best));
      at = start + ((row[axis] - low) / (high - low)) * (end - start);
      if (data.runs.length > 1) lines.push(run.name);
      lines.push(`step ${told(row[0])}, ${told(row[1])} tokens, ${told(row[2])} s`);
      for (const column of shown) if (row[column] !== null) lines.push(`${data.columns[column]}: ${told(row[column])}`);
    }
    if (!lines.length) return;
    hair.setAttribute("x1", at);
    hair.setAttribute("x2", at);
    chart.append(hair);
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, room))}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 10)}px`;
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", () => {
    hair.remove();
    tip.hidden = true;
  });
}
