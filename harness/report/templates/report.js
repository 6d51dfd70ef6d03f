// Tables: a click on a heading sorts by it, a word in the field leaves the rows that have it. Without scripts the page is whole.
"use strict";
const value = (cell) => {
  const text = cell ? cell.firstChild ? cell.firstChild.textContent : "" : "";
  const found = text.replaceAll("−", "-").replaceAll(",", "").match(/-?\d+(\.\d+)?([kMGTPE])?/);
  const size = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 };
  return found ? parseFloat(found[0]) * (size[found[2]] || 1) : NaN;
};
for (const table of document.querySelectorAll(".scroll > table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 3) continue;
  for (const head of table.tHead.rows[0].cells) {
    const words = head.classList.contains("w");
    head.classList.add("sort");
    head.title = "Sort by this column";
    head.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === (words ? "ascending" : "descending") ? words : !words;
      const text = (row) => row.cells[head.cellIndex].textContent;
      const rows = [...body.rows].sort((a, b) => {
        if (words) return (down ? -1 : 1) * text(a).localeCompare(text(b));
        const [x, y] = [value(a.cells[head.cellIndex]), value(b.cells[head.cellIndex])];
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return (down ? -1 : 1) * (x - y);
      });
      body.append(...rows);
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  }
  if (body.rows.length < 8) continue;
  const field = document.createElement("input");
  field.className = "filter";
  field.type = "search";
  field.placeholder = "Filter rows: task, backbone, …";
  field.setAttribute("aria-label", "Filter the rows of the table below");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  table.parentElement.before(field);
}
