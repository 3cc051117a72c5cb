"use strict";
(() => {
  const form = document.getElementById("filters");
  const find = document.getElementById("find");
  const kind = document.getElementById("class");
  const status = document.getElementById("status");
  const sort = document.getElementById("sort");
  const turn = document.getElementById("turn");
  const count = document.getElementById("count");
  const sections = [...document.querySelectorAll("section.matrix")].map((section) => ({
    section,
    body: section.querySelector("tbody"),
    heads: [...section.querySelectorAll("thead th")],
    rows: [...section.querySelectorAll("tbody tr")].map((row, place) => ({
      row,
      place,
      text: row.textContent.toLowerCase(),
      cells: new Map([...row.children].map((cell) => [cell.dataset.c, cell])),
    })),
  }));
  const total = sections.reduce((sum, one) => sum + one.rows.length, 0);

  function show() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const one of sections) {
      let here = 0;
      for (const item of one.rows) {
        const fits =
          (!kind.value || item.row.dataset.class === kind.value) &&
          (!status.value || item.row.dataset.status === status.value) &&
          words.every((word) => item.text.includes(word));
        item.row.hidden = !fits;
        here += fits;
      }
      one.section.hidden = here === 0;
      shown += here;
    }
    count.textContent = shown === total ? `${total} rows` : `${shown} of ${total} rows`;
  }

  function value(item, slug, numeric) {
    const cell = item.cells.get(slug);
    const found = cell ? (cell.dataset.v ?? cell.textContent.trim()) : "";
    if (!numeric) return found;
    const parsed = found === "" ? NaN : Number(found);
    return parsed;
  }

  // What has no figure comes last in either direction: it is neither small nor large.
  function compare(a, b, slug, numeric, down) {
    const [x, y] = [value(a, slug, numeric), value(b, slug, numeric)];
    const absent = (one) => (numeric ? Number.isNaN(one) : one === "" || one === "–");
    if (absent(x) || absent(y)) return absent(x) - absent(y) || a.place - b.place;
    const number = /^-?[\d.]+$/;
    const order = numeric || (number.test(x) && number.test(y)) ? x - y : x.localeCompare(y, "en");
    return (down ? -order : order) || a.place - b.place;
  }

  function arrange(slug, down) {
    for (const one of sections) {
      const head = one.heads.find((item) => item.dataset.sort === slug);
      for (const item of one.heads) item.setAttribute("aria-sort", "none");
      let rows = [...one.rows];
      if (slug && head) {
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        rows.sort((a, b) => compare(a, b, slug, head.dataset.kind === "number", down));
      }
      one.body.append(...rows.map((item) => item.row));
    }
    sort.value = [...sort.options].some((option) => option.value === slug) ? slug : "";
    turn.setAttribute("aria-pressed", String(down));
  }

  for (const one of sections) {
    for (const head of one.heads) {
      head.querySelector("button").addEventListener("click", () => {
        arrange(head.dataset.sort, head.getAttribute("aria-sort") === "ascending");
      });
    }
  }
  find.addEventListener("input", show);
  kind.addEventListener("change", show);
  status.addEventListener("change", show);
  sort.addEventListener("change", () => arrange(sort.value, turn.getAttribute("aria-pressed") === "true"));
  turn.addEventListener("click", () => arrange(sort.value, turn.getAttribute("aria-pressed") !== "true"));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    setTimeout(() => {
      arrange("", false);
      show();
    }, 0);
  });
  form.hidden = false;
  document.body.dataset.ready = "yes";
})();
