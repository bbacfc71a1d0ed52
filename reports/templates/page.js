// Rows of tables sort by a click on a head and are filtered by words.  Without this script the page reads as it stands.
"use strict";
for (const block of document.querySelectorAll(".table")) {
  const body = block.querySelector("tbody"), rows = [...body.rows];
  if (rows.length < 2) continue;
  const heads = [...block.querySelectorAll("thead tr:last-child th")];
  // Numbers by their value, then words, empty cells last in both directions.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.sort !== undefined) return [0, Number(cell.dataset.sort)];
    const words = cell.classList.contains("empty") ? "" : cell.textContent.trim();
    return words ? [1, words] : [2, ""];
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const sort = (column, direction) => {
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? direction : "none"));
    const keys = new Map(rows.map((row) => [row, key(row, column)]));
    const sign = direction === "descending" ? -1 : 1;
    const order = direction !== "none" ? [...rows].sort((a, b) => {
      const [ka, a1] = keys.get(a), [kb, b1] = keys.get(b);
      return ka - kb || sign * compare(a1, b1);
    }) : rows;
    body.classList.toggle("sorted", direction !== "none");
    body.append(...order);
  };
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    head.setAttribute("aria-sort", "none");
    head.title = "sort by this column";
    const turn = () => {
      const ways = column ? ["none", "descending", "ascending"] : ["none", "ascending", "descending"];
      const next = ways[(ways.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      sort(column, next);
    };
    head.addEventListener("click", turn);
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      turn();
    });
  });
  if (rows.length < 6) continue;
  const field = document.createElement("input");
  field.type = "search";
  field.className = "filter";
  field.placeholder = "filter rows";
  field.setAttribute("aria-label", "filter rows of: " + block.querySelector("h3").textContent);
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const words = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => words.includes(word));
    }
  });
  block.querySelector(".scroll").before(field);
}
