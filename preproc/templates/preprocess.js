"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const BLOCK = Number(document.getElementById("report-data").dataset.block);
  const fields = data.fields, nScans = data.scan_id.length;
  const fieldOf = Object.fromEntries(fields.map((field, i) => [field.name, i]));
  const ON_CARD = ["minutes_kept", "fd_mean", "tsnr_median", "coverage_min", "spike_share", "fc_mean", "typicality"];
  const MINUS = "\u2212", DASH = "\u2013";

  const flags = new Map();  // row of a scan -> Map of metric -> [value, median, limit]
  for (const [row, metric, ...told] of data.outliers) {
    if (!flags.has(row)) flags.set(row, new Map());
    flags.get(row).set(metric, told);
  }
  const lower = data.scan_id.map(name => name.toLowerCase());

  function make(tag, options = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(options)) {
      if (key === "class") node.className = value;
      else if (key === "click") node.addEventListener("click", value);
      else if (value !== false && value !== null) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }
  const unitOf = field => ["", "share", "r"].includes(field.unit) ? "" : " " + field.unit;
  function text(value, digits) {
    if (value === null || value === undefined) return DASH;
    const shown = value && Math.abs(value) < 0.5 * 10 ** -digits ? digits + 1 : digits;
    return value.toFixed(shown).replace("-", MINUS);
  }
  const valueOf = (row, name) => data.columns[fieldOf[name]][row];
  const isFlagged = (row, name) => flags.has(row) && flags.get(row).has(name);

  // --- pictures: a block of base64 is read when one of its pictures is first shown ------------------------------
  const blocks = new Map();
  const pictureOf = row => pictureAt(data.pictures[row]);
  function pictureAt(where) {
    if (typeof where !== "number") return where;
    const number = Math.floor(where / BLOCK);
    if (!blocks.has(number)) blocks.set(number, JSON.parse(document.getElementById("pictures-" + number).textContent));
    return "data:image/webp;base64," + blocks.get(number)[where % BLOCK];
  }
  function image(row) {
    const source = pictureOf(row);
    return source && make("img", { src: source, loading: "lazy", decoding: "async", width: 960, height: 296, alt: "Picture of " + data.scan_id[row] });
  }

  // --- the browser of scans -------------------------------------------------------------------------------------
  const home = document.getElementById("scans");
  const state = { text: "", flagged: false, sort: "scan_id", descending: false, page: 0, size: 24, view: "pictures" };
  let rows = [];

  function choose() {
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    rows = [];
    for (let row = 0; row < nScans; row++) {
      if (state.flagged && !flags.has(row)) continue;
      if (words.every(word => lower[row].includes(word))) rows.push(row);
    }
    const sign = state.descending ? -1 : 1;
    if (state.sort === "scan_id") { if (state.descending) rows.reverse(); }
    else if (state.sort === "flags") rows.sort((a, b) => sign * ((flags.get(a)?.size ?? 0) - (flags.get(b)?.size ?? 0)) || a - b);
    else {
      const column = data.columns[fieldOf[state.sort]];
      rows.sort((a, b) => (column[a] === null) - (column[b] === null) || sign * (column[a] - column[b]) || a - b);
    }
  }
  function card(row) {
    const told = make("div", { class: "numbers" });
    for (const name of ON_CARD) {
      if (!(name in fieldOf)) continue;
      told.append(number(row, fields[fieldOf[name]]));
    }
    for (const name of flags.get(row)?.keys() ?? []) if (!ON_CARD.includes(name)) told.append(number(row, fields[fieldOf[name]]));
    return make("article", { class: flags.has(row) ? "card flagged" : "card" },
      make("button", { class: "picture", type: "button", "aria-label": "Enlarge " + data.scan_id[row], click: () => enlarge(row) }, image(row) || "no picture"),
      make("h3", { title: data.scan_id[row] }, data.short[row]), told);
  }
  function number(row, field) {
    const bad = isFlagged(row, field.name);
    return make("span", { class: bad ? "bad" : "", title: field.what }, field.title + " ", make("b", {}, text(valueOf(row, field.name), field.digits) + unitOf(field)));
  }
  function table(shown) {
    const head = make("tr", {}, header({ name: "scan_id", title: "Scan", unit: "", what: "" }));
    for (const field of fields) head.append(header(field));
    const body = shown.map(row => make("tr", {},
      make("td", {}, make("button", { class: "link", type: "button", title: data.scan_id[row], click: () => enlarge(row) }, data.short[row])),
      ...fields.map((field, i) => make("td", { class: isFlagged(row, field.name) ? "number bad" : "number" }, text(data.columns[i][row], field.digits)))));
    return make("div", { class: "scroll" }, make("table", {}, head, ...body));
  }
  function header(field) {
    const sorted = state.sort === field.name;
    const arrow = sorted ? (state.descending ? " \u2193" : " \u2191") : "";
    return make("th", {
      class: field.name === "scan_id" ? "" : "number", title: field.what, scope: "col", tabindex: "0",
      "aria-sort": sorted ? (state.descending ? "descending" : "ascending") : false,
      click: () => { sortBy(field.name, sorted ? !state.descending : field.bad === "high"); },
    }, field.title + (unitOf(field) && ` (${field.unit})`) + arrow);
  }
  function sortBy(name, descending) { state.sort = name; state.descending = descending; state.page = 0; draw(); }

  const search = make("input", { type: "search", placeholder: "Scan, participant, task \u2026", "aria-label": "Filter scans by name" });
  const onlyFlagged = make("button", { type: "button", click: () => { state.flagged = !state.flagged; state.page = 0; draw(); } });
  const sorting = make("select", { "aria-label": "Sort by" },
    make("option", { value: "scan_id" }, "name"), make("option", { value: "flags" }, "most flags"),
    ...fields.map(field => make("option", { value: field.name }, field.title)));
  const turn = make("button", { type: "button", "aria-label": "Reverse the order", click: () => sortBy(state.sort, !state.descending) });
  const size = make("select", { "aria-label": "Scans a page" }, ...[12, 24, 48, 96].map(n => make("option", { value: n }, n + " a page")));
  const views = ["pictures", "table"].map(name => make("button", { type: "button", click: () => { state.view = name; draw(); } }, name === "pictures" ? "Pictures" : "Table"));
  const pager = make("span", {}), shown = make("div", {}), below = make("div", { class: "controls" });
  search.addEventListener("input", () => { state.text = search.value; state.page = 0; draw(); });
  size.addEventListener("change", () => { state.size = Number(size.value); state.page = 0; draw(); });
  sorting.addEventListener("change", () => sortBy(sorting.value, sorting.value === "flags" || ["high", "both"].includes(fields[fieldOf[sorting.value]]?.bad)));
  function step(by) { return make("button", { type: "button", "aria-label": by < 0 ? "Page before" : "Next page", click: () => { state.page += by; draw(); home.scrollIntoView(); } }, by < 0 ? "\u2190" : "\u2192"); }
  const steps = [step(-1), step(1), step(-1), step(1)];
  const place = [make("span", {}), make("span", {})];
  home.append(make("div", { class: "controls sticky" }, ...views, search, onlyFlagged, make("label", {}, "Sort by ", sorting), turn, size,
    make("span", { class: "room" }), steps[0], place[0], steps[1]), shown, below);
  below.append(make("span", { class: "room" }), steps[2], place[1], steps[3]);

  function draw() {
    choose();
    const pages = Math.max(1, Math.ceil(rows.length / state.size));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const visible = rows.slice(state.page * state.size, (state.page + 1) * state.size);
    shown.replaceChildren(visible.length === 0 ? make("p", { class: "empty" }, "No scan fits.")
      : state.view === "table" ? table(visible) : make("div", { class: "cards" }, ...visible.map(card)));
    for (const span of place) span.textContent = rows.length ? `${state.page * state.size + 1}${DASH}${state.page * state.size + visible.length} of ${rows.length}` : "0";
    steps.forEach((button, i) => { button.disabled = i % 2 ? state.page >= pages - 1 : state.page === 0; });
    views.forEach((button, i) => button.setAttribute("aria-pressed", (i === 0) === (state.view === "pictures")));
    onlyFlagged.textContent = `Only flagged (${flags.size})`;
    onlyFlagged.setAttribute("aria-pressed", state.flagged);
    sorting.value = state.sort; size.value = state.size; search.value = state.text;
    turn.textContent = state.descending ? "\u2193" : "\u2191";
  }

  // --- one scan, enlarged ---------------------------------------------------------------------------------------
  const dialog = make("dialog", { "aria-label": "One scan" });
  document.body.append(dialog);
  let open = -1;
  function enlarge(row) {
    open = row;
    const numbers = make("div", { class: "table" });
    fields.forEach((field, i) => {
      const bad = isFlagged(row, field.name), told = bad && flags.get(row).get(field.name);
      numbers.append(make("div", { class: bad ? "bad" : "", title: field.what }, make("span", {}, field.title),
        make("span", {}, make("b", {}, text(data.columns[i][row], field.digits) + unitOf(field)),
          bad ? make("small", {}, ` median ${text(told[1], field.digits)}, limit ${text(told[2], field.digits)}`) : "")));
    });
    const at = rows.indexOf(row);
    const go = by => make("button", { type: "button", "aria-label": by < 0 ? "Scan before" : "Next scan", disabled: at < 0 || at + by < 0 || at + by >= rows.length, click: () => enlarge(rows[at + by]) }, by < 0 ? "\u2190" : "\u2192");
    const close = make("button", { type: "button", click: () => dialog.close() }, "Close");
    dialog.replaceChildren(
      make("div", { class: "controls" }, make("b", {}, data.scan_id[row]), make("span", { class: "room" }), go(-1), go(1), close),
      image(row) || make("div", { class: "none" }, "This scan has no picture."),
      make("p", { class: "muted" }, make("code", {}, data.source[row])), numbers);
    if (!dialog.open) dialog.showModal();
  }
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", event => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], at = rows.indexOf(open);
    if (by && at >= 0 && rows[at + by] !== undefined) enlarge(rows[at + by]);
  });
  document.addEventListener("click", event => {
    const named = event.target.closest("[data-scan]");
    if (named) { event.preventDefault(); const row = data.scan_id.indexOf(named.dataset.scan); if (row >= 0) enlarge(row); }
    const worst = event.target.closest("[data-worst]");
    if (worst) {
      const field = fields[fieldOf[worst.dataset.worst]];
      Object.assign(state, { flagged: true, text: "", sort: field.name, descending: field.bad !== "low", page: 0 });
      draw(); home.scrollIntoView();
    }
  });

  // --- searchable, paged tables of failures and outliers ----------------------------------------------------------
  function pagedTable(id, columns, content, cells) {
    const box = document.getElementById(id);
    if (!box) return;
    const find = make("input", { type: "search", placeholder: "Search", "aria-label": "Search the table" });
    const words = content.map(row => row.map(String).join("\n").toLowerCase());
    const body = make("div", {}), where = make("span", {});
    const SIZE = 25;
    let page = 0;
    const move = by => make("button", { type: "button", "aria-label": by < 0 ? "Page before" : "Next page", click: () => { page += by; show(); } }, by < 0 ? "\u2190" : "\u2192");
    const back = move(-1), forth = move(1);
    function show() {
      const wanted = find.value.toLowerCase();
      const found = content.filter((_, i) => words[i].includes(wanted));
      const pages = Math.max(1, Math.ceil(found.length / SIZE));
      page = Math.min(Math.max(page, 0), pages - 1);
      const part = found.slice(page * SIZE, (page + 1) * SIZE);
      body.replaceChildren(make("div", { class: "scroll" }, make("table", {},
        make("tr", {}, ...columns.map(([title, kind, what]) => make("th", { class: kind, scope: "col", title: what ?? false }, title))), ...part.map(cells))));
      where.textContent = found.length ? `${page * SIZE + 1}${DASH}${page * SIZE + part.length} of ${found.length}` : "none found";
      back.disabled = page === 0; forth.disabled = page >= pages - 1;
    }
    find.addEventListener("input", () => { page = 0; show(); });
    box.append(make("div", { class: "controls" }, find, make("span", { class: "room" }), back, where, forth), body);
    show();
  }
  pagedTable("failures", [["Source", ""], ["Stage", ""], ["Kind", ""], ["Why", "wrap"], ["What to do", "wrap"]], data.failures,
    row => make("tr", {}, ...row.map((value, i) => make("td", { class: i > 2 ? "wrap" : "" }, value))));
  pagedTable("outliers", [["Scan", ""], ["What", ""], ["Value", "number"], ["Median", "number"], ["Limit", "number"], ["Unit", ""]],
    data.outliers.map(([row, metric, ...told]) => [data.scan_id[row], fields[fieldOf[metric]].title, row, metric, ...told]),
    ([name, title, row, metric, value, median, limit]) => {
      const field = fields[fieldOf[metric]];
      return make("tr", {}, make("td", {}, make("button", { class: "link", type: "button", title: name, click: () => enlarge(row) }, data.short[row])),
        make("td", {}, title), make("td", { class: "number bad" }, text(value, field.digits)),
        make("td", { class: "number" }, text(median, field.digits)), make("td", { class: "number" }, text(limit, field.digits)), make("td", {}, unitOf(field)));
    });

  // --- registrations of raw runs: a row of measures, and below it the pictures, made when they are opened ----------
  if (data.raw) {
    const raw = data.raw;
    const level = (scan, name) => scan.findings.find(([measure]) => measure === name);
    const opened = scan => {
      const parts = scan.findings.map(([, kind, sentence]) => make("p", { class: kind === "fail" ? "bad" : "warning" }, sentence));
      const others = raw.others.map((measure, i) => [measure, scan.other_values[i]]).filter(([, value]) => value !== null);
      parts.push(make("p", { class: "muted" }, "Template: " + scan.template + ". " + others.map(([measure, value]) => measure.title + " " + text(value, measure.digits)).join("; ") + (others.length ? "." : "")));
      for (const [name, place] of scan.pictures) {
        const [title, what] = raw.pictures[name];
        parts.push(make("figure", {}, make("img", { src: pictureAt(place), loading: "lazy", decoding: "async", alt: title + " of " + data.scan_id[scan.row] }),
          make("figcaption", {}, make("b", {}, title + ". "), what)));
      }
      return parts;
    };
    const rowsOf = scan => {
      const said = [scan.low ? "no T1w image: low quality" : "", scan.findings.length ? scan.findings.length + " beyond a limit" : ""].filter(Boolean).join("; ");
      const details = make("details", {}, make("summary", {}, "pictures"));
      details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(...opened(scan)); });
      const both = document.createDocumentFragment();
      both.append(
        make("tr", { class: "run" }, make("td", {}, make("button", { class: "link", type: "button", title: data.scan_id[scan.row], click: () => enlarge(scan.row) }, data.short[scan.row])),
          ...raw.columns.map((column, i) => {
            const found = level(scan, column.name);
            return make("td", { class: "number" + (found ? (found[1] === "fail" ? " bad" : " warn") : ""), title: found ? found[2] : column.what }, text(scan.values[i], column.digits));
          }),
          make("td", { class: said ? "warn" : "" }, said || "within limits")),
        make("tr", { class: "more" }, make("td", { colspan: raw.columns.length + 2 }, details)));
      return both;
    };
    const scans = [...raw.scans].sort((a, b) => b.findings.length - a.findings.length || b.low - a.low || a.row - b.row);
    pagedTable("registrations", [["Run", ""], ...raw.columns.map(column => [column.title, "number", column.what]), ["Verdict", ""]],
      scans.map(scan => [data.scan_id[scan.row], ...scan.findings.map(found => found[2]), scan.low ? "low quality" : "", scan]), row => rowsOf(row[row.length - 1]));
  }
  draw();
})();
