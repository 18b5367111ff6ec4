"use strict";
// A click, or Enter, on the head of a column sorts by it: the largest number first, names from A; once more turns it
// round. What is missing stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const numbers = head.classList.contains("number");
    const first = numbers ? "descending" : "ascending", other = numbers ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach(one => one.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (a, b) => numbers ? a - b : a.localeCompare(b, "en", {numeric: true});
    const rows = [...body.rows].map(row => [key(row), row]);
    rows.sort(([a], [b]) => a === "" || b === "" ? (a === "") - (b === "") :
      order === "ascending" ? compare(a, b) : compare(b, a));
    body.append(...rows.map(([, row]) => row));
  }));
}
// A printed page shows what is folded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(one => { one.open = true; }));
