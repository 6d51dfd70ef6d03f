// Tables: a click on a heading sorts by it, a word in the field leaves the rows that have it. Figures: points show their
// values. A field above leaves one task. Without scripts the page is whole.
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

// Values of the points below the pointer, at once; the title that a browser would show later goes.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);
for (const title of document.querySelectorAll(".hint > title")) {
  title.parentNode.dataset.text = title.textContent;
  title.remove();
}
for (const figure of document.querySelectorAll("figure")) {
  const show = (event) => {
    const points = document.elementsFromPoint(event.clientX, event.clientY).filter((one) => one.matches(".hint"));
    const texts = [...new Set(points.map((one) => one.dataset.text))];
    tip.hidden = !texts.length;
    tip.textContent = texts.slice(0, 5).join("\n\n") + (texts.length > 5 ? `\n\nand ${texts.length - 5} more` : "");
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${event.clientY + 14 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 14}px`;
  };
  figure.addEventListener("pointermove", show);
  figure.addEventListener("pointerdown", show);
  figure.addEventListener("pointerleave", () => (tip.hidden = true));
}
document.addEventListener("scroll", () => (tip.hidden = true), { passive: true });

// One task: rows and columns of the others go, their panels fade.
const contents = document.querySelector("nav");
const tasks = JSON.parse(contents.dataset.tasks);
if (tasks.length > 1) {
  const of = (text) => tasks.findIndex((names) => names.some((name) => text === name || text.startsWith(`${name} · `)));
  const first = (cell) => (cell.firstChild ? cell.firstChild.textContent.trim() : "");
  const single = (texts) => {  // the one task that texts name; -1 for none or several
    const named = new Set(texts.map(of).filter((number) => number >= 0));
    return named.size === 1 ? [...named][0] : -1;
  };
  const owned = [];  // [element, number of its task, class that it has while another is chosen]
  for (const table of document.querySelectorAll(".scroll > table")) {
    const columns = [...table.tHead.rows[0].cells].map((cell) => of(first(cell)));
    for (const row of table.rows) {
      owned.push([row, single([...row.querySelectorAll("td.w")].map(first)), "other"], ...[...row.cells].map((cell, i) => [cell, columns[i], "other"]));
    }
  }
  for (const panel of document.querySelectorAll('figure g[id*="-axes_"]')) {
    owned.push([panel, single([...panel.querySelectorAll("text")].map((text) => text.textContent.trim())), "dim"]);
  }
  const label = document.createElement("label");
  const picker = document.createElement("select");
  picker.className = "task";
  picker.append(new Option("all", -1), ...tasks.map((names, i) => new Option(names[0], i)));
  picker.addEventListener("change", () => {
    const chosen = Number(picker.value);
    for (const [element, task, mark] of owned) element.classList.toggle(mark, chosen >= 0 && task >= 0 && task !== chosen);
  });
  label.append("Task ", picker);
  contents.append(" ", label);
}
