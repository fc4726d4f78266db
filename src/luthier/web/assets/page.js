// What the page does besides showing itself: remembers language and colours, sorts tables. It reads without this.
"use strict";
const remember = (name) => {
  let kept = null;
  try { kept = localStorage.getItem("luthier-" + name); } catch { /* a page from disk may have no storage */ }
  const wanted = document.getElementById(name + "-" + kept);
  if (wanted) wanted.checked = true;
  for (const input of document.querySelectorAll(`input[name="${name}"]`)) {
    input.addEventListener("change", () => {
      try { localStorage.setItem("luthier-" + name, input.value); } catch { /* likewise */ }
      speak();
    });
  }
  return kept;
};
const language = () => document.querySelector('input[name="lang"]:checked').value;
const speak = () => {
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
};
const value = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.sort ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return Number.isNaN(number) ? text : number;
};
const order = (a, b, column) => {
  const [x, y] = [value(a, column), value(b, column)];
  if (x === "" || y === "") return (x === "") - (y === ""); // what is unknown stands last, whichever way
  return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
};
const sort = (table, column, direction) => {
  const body = table.tBodies[0];
  const known = (row) => value(row, column) !== "";
  const rows = [...body.rows].sort((a, b) => order(a, b, column) * (known(a) && known(b) ? direction : 1));
  body.append(...rows);
  table.querySelectorAll("thead th").forEach((head, place) => {
    if (place === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
  table.dataset.sorted = `${column} ${direction}`;
};
const sortable = (root) => {
  for (const table of root.querySelectorAll("table.sortable")) {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.hasAttribute("aria-sort"));
        sort(table, column, up ? 1 : -1); // numbers from the greatest, names from A
      });
    });
  }
};
remember("theme");
if (remember("lang") === null && document.documentElement.dataset.lang === "auto" && /^zh\b/i.test(navigator.language)) {
  document.getElementById("lang-zh").checked = true;
}
speak();
sortable(document);
