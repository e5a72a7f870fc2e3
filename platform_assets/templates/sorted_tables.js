"use strict";
// Heads of sortable tables become buttons: numbers sort largest first, then smallest; text from A to Z, then back.
for (const head of document.querySelectorAll("th[data-sort]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const numeric = head.dataset.sort === "number";
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      return numeric ? Number(cell.dataset.value) : cell.textContent.trim();
    };
    const compare = (a, b) => (numeric ? key(a) - key(b) : key(a).localeCompare(key(b)));
    const sign = order === "ascending" ? 1 : -1;
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  });
}
