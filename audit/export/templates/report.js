"use strict";
(() => {
  const words = document.getElementById("filter");
  const effect = document.getElementById("effect");
  const shown = document.getElementById("shown");
  const rows = Array.from(document.querySelectorAll("#decisions tbody tr"), (row) => [row, row.textContent.toLowerCase()]);
  const apply = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [row, text] of rows) {
      const fits = (!effect.value || row.dataset.effect === effect.value) && wanted.every((word) => text.includes(word));
      row.hidden = !fits;
      count += fits ? 1 : 0;
    }
    shown.textContent = count + " of " + rows.length + " shown";
  };
  words.addEventListener("input", apply);
  effect.addEventListener("change", apply);
  apply();
})();
