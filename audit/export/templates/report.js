"use strict";
(() => {
  for (const label of document.querySelectorAll(".head label")) {
    const part = label.closest("section");
    const rows = Array.from(part.querySelectorAll("tbody tr"), (row) => [row, row.textContent.toLowerCase()]);
    const field = label.querySelector("input");
    const shown = label.querySelector("output");
    label.hidden = false;
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const [row, text] of rows) {
        row.hidden = !wanted.every((word) => text.includes(word));
        count += row.hidden ? 0 : 1;
      }
      shown.textContent = wanted.length ? count + " of " + rows.length : "";
    });
  }
})();
