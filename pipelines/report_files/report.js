// The filters of the overview: a row is shown when it fits all of them.
(() => {
  const form = document.getElementById("filters");
  const rows = [...document.querySelectorAll("tbody tr")];
  const count = document.getElementById("shown");

  function fits(row, wanted) {
    return (
      (!wanted.text || row.textContent.toLowerCase().includes(wanted.text)) &&
      (!wanted.status || row.dataset.status === wanted.status) &&
      (!wanted.target || row.dataset.targets.split(" ").includes(wanted.target)) &&
      (!wanted.warning || row.dataset.warnings.split(" ").includes(wanted.warning)) &&
      (!wanted.edges || (row.dataset.edges !== "" && Number(row.dataset.edges) < Number(wanted.edges)))
    );
  }

  function apply() {
    const wanted = Object.fromEntries(new FormData(form));
    wanted.text = wanted.text.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !fits(row, wanted);
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} cases`;
  }

  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply(); // a browser keeps what was chosen when it loads a page again
})();
