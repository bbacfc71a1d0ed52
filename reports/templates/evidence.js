"use strict";
/* The samples of one score (evidence.html.j2): filter, sort, and the cards of one page at a time. */
(() => {
  const shown = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 60;
  const form = document.getElementById("filters");
  const two = shown.sides.length === 2;
  const full = shown.sides[0].score.unit === "of 100" ? 100 : 1;
  const judged = ["geneval", "dpg", "vqa"].includes(shown.kind);
  const sign = shown.better === "low" ? -1 : 1;
  const scored = shown.kind === "dpg" && shown.metric.startsWith("dpg"); // a prompt with all of its questions
  if (shown.kind === "dpg" && !scored) document.body.classList.add("questions");

  /* ------------------------------------------------------------------------------------------- what is known of it */

  const values = (item) => item.sides.map((side) => (side && side.value !== undefined && side.value !== null ? sign * side.value : null));
  const right = (value) => value !== null && value >= full;
  const yes = (answer) => typeof answer === "string" && /^\s*yes[\s.,;:!?]*$/i.test(answer);

  /* The questions that some image was not answered yes, and those that depend on one (any answer), for one image. */
  function failed(questions, answers) {
    const no = new Set(questions.filter((q) => !yes(answers[q.number])).map((q) => q.number));
    const above = new Map(questions.map((q) => [q.number, q.after]));
    const blocked = (number, seen) =>
      (above.get(number) || []).some((parent) => !seen.has(parent) && (no.has(parent) || blocked(parent, new Set([...seen, parent]))));
    return { no, void: new Set(questions.map((q) => q.number).filter((number) => !no.has(number) && blocked(number, new Set([number])))) };
  }

  for (const item of shown.items) {
    item.values = values(item);
    item.worst = Math.min(...item.values.map((value) => (value === null ? -Infinity : value)));
    if (item.questions && !item.groups) {
      const numbers = new Set();
      for (const side of item.sides) for (const answers of (side && side.answers) || []) for (const n of failed(item.questions, answers).no) numbers.add(n);
      item.groups = [...new Set(item.questions.filter((q) => numbers.has(q.number)).map((q) => q.category))];
    }
    item.groups = item.groups || [];
    if (shown.kind === "recon" && item.sides.some((side) => side && side.images.some((image) => image.src))) item.groups.push("with its reconstruction");
    const said = item.sides.flatMap((side) => (side ? [side.answer, side.why, ...(side.images || []).map((image) => image.why)] : []));
    item.words = [item.id, item.text, ...(item.expected || []), ...(item.questions || []).map((q) => q.text), ...said].filter(Boolean).join("\n").toLowerCase();
    item.sum = item.values.reduce((sum, value) => sum + (value || 0), 0);
    const [a, b] = item.values;
    item.versus = !two ? "" : a === null || b === null ? "gap" : a === b ? "same" : a > b ? "a" : "b";
    item.result = item.values.some((value) => value === null) ? "none" : item.values.every(right) ? "right" : "failed";
  }

  /* --------------------------------------------------------------------------------------------------- the controls */

  function choices(name, options) {
    const field = form.elements[name];
    field.replaceChildren(...options.map(([value, words]) => new Option(words, value)));
    field.closest("label").hidden = options.length < 2;
  }
  const count = (test) => shown.items.filter(test).length;
  const groups = [...new Set(shown.items.flatMap((item) => item.groups))];
  choices("group", [["", "all"], ...groups.map((name) => [name, `${name} (${count((item) => item.groups.includes(name))})`])]);
  if (scored)
    form.elements.group.closest("label").firstChild.textContent = "Failed question of ";
  const results = [["failed", two ? "some side failed" : "failed"], ["right", two ? "both right" : "right"], ["none", "without a result"]];
  choices("result", [["", "all"], ...results.map(([value, words]) => [value, `${words} (${count((item) => item.result === value)})`])
    .filter(([value]) => (judged || value === "none") && count((item) => item.result === value))]);
  const [up, down] = judged ? ["A higher", "B higher"] : ["A better", "B better"];
  const differ = (item) => item.versus === "a" || item.versus === "b";
  const sides = [["differ", "they disagree", differ], ["a", judged && !scored ? "A right, B wrong" : up], ["b", judged && !scored ? "B right, A wrong" : down],
    ["same", "they agree"], ["gap", "only one has a result"]];
  choices("versus", !two ? [] : [["", "all"], ...sides.map(([value, words, test]) => [value, `${words} (${count(test || ((item) => item.versus === value))})`])]);
  const gap = (item) => (item.values[0] === null || item.values[1] === null ? null : item.values[1] - item.values[0]);
  const least = (a, b) => (a === b ? 0 : a === null ? 1 : b === null ? -1 : a - b);
  const SORTS = {
    worst: [judged ? "failures first" : "worst first", (a, b) => least(a.worst, b.worst) || a.sum - b.sum],
    best: ["best first", (a, b) => least(b.worst, a.worst) || b.sum - a.sum],
    order: ["as in the suite", () => 0],
    text: ["by text", (a, b) => a.text.localeCompare(b.text)],
    ...(two && {
      ahead: ["B ahead of A first", (a, b) => (gap(a) === null || gap(b) === null ? least(gap(a), gap(b)) : gap(b) - gap(a))],
      behind: ["A ahead of B first", (a, b) => least(gap(a), gap(b))],
    }),
  };
  choices("sort", Object.entries(SORTS).map(([value, [words]]) => [value, words]));
  const boxed = shown.kind === "geneval";
  form.elements.boxes.closest("label").hidden = form.elements.low.closest("label").hidden = !boxed;

  /* ------------------------------------------------------------------------------------------------------ the cards */

  function make(tag, about = {}, ...inner) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(about)) if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    made.append(...inner.filter((each) => each !== null && each !== undefined && each !== ""));
    return made;
  }
  const SVG = "http://www.w3.org/2000/svg";
  function drawn(tag, about, words) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(about)) made.setAttribute(name, value);
    if (words !== undefined) made.textContent = words;
    return made;
  }

  function overlay(image) {
    const svg = drawn("svg", { viewBox: `0 0 ${image.width} ${image.height}`, "aria-hidden": "true" });
    const size = Math.max(image.width, image.height) / 13;
    image.boxes.forEach((each, i) => {
      const [x1, y1, x2, y2] = each.box;
      const place = { x: x1, y: y1, width: Math.max(x2 - x1 + 1, 0), height: Math.max(y2 - y1 + 1, 0) };
      const g = drawn("g", each.counts ? {} : { class: "low" });
      g.append(drawn("rect", place), drawn("rect", place), drawn("text", { x: x1 + size / 4, y: y1 + size, "font-size": size }, i + 1));
      svg.append(g);
    });
    return svg;
  }

  function shot(image, item, where) {
    const words = image.words ? [make("figcaption", {}, image.words)] : [];
    if (image.lost) return make("div", { class: "lost" }, (image.words ? `${image.words}: ` : "") + image.lost);
    const img = make("img", { src: image.src, loading: "lazy", width: image.width, height: image.height, alt: `${where}: ${item.text}${image.words ? `, ${image.words}` : ""}`,
      class: Math.max(image.width, image.height) <= 128 ? "small" : undefined });
    const holder = make("span", { class: "shot" }, img);
    if (image.boxes && image.boxes.length) holder.append(overlay(image));
    const found = (image.boxes || []).map((box, i) => make("li", { class: box.counts ? undefined : "low" }, `${i + 1}  ${box.words}  ${box.score.toFixed(2)}${box.counts ? "" : ", not counted"}`));
    if (boxed && !found.length) found.push(make("li", {}, "nothing found"));
    return make("figure", {}, holder, ...words, boxed ? make("ul", { class: "found" }, ...found) : null, image.why ? make("p", { class: "why" }, image.why) : null);
  }

  function verdict(value, side) {
    if (value === null) return make("span", { class: "verdict none" }, side ? "no result" : "not in this run");
    if (!judged) return make("span", { class: "verdict" }, `${(sign * value).toFixed(Math.abs(value) < 10 ? 4 : 2)} ${shown.sides[0].score.unit}`.trim());
    if (value > 0 && value < full) return make("span", { class: "verdict wrong" }, `${+value.toFixed(1)} of ${full}`);
    return make("span", { class: `verdict ${right(value) ? "right" : "wrong"}` }, (right(value) ? "right" : "wrong") + (scored ? ` (${+value.toFixed(1)} of ${full})` : ""));
  }

  function answers(item) {
    const marks = item.sides.map((side) => ((side && side.answers) || []).map((each) => failed(item.questions, each)));
    const head = [make("th", {}, ""), make("th", {}, "Question")];
    item.sides.forEach((side, s) => ((side && side.answers) || []).forEach((_, i) => head.push(make("th", { class: `answer${s && !i ? " b" : ""}` }, `${two ? "AB"[s] : "Image"} ${i + 1}`))));
    const rows = item.questions.map((q) => {
      const about = [q.category, q.after.length ? `depends on ${q.after.join(", ")}` : ""].filter(Boolean).join("; ");
      const cells = item.sides.flatMap((side, s) => ((side && side.answers) || []).map((each, i) => {
        const said = each[q.number];
        const idle = marks[s][i].void.has(q.number);
        const kind = yes(said) ? (idle ? "void" : "yes") : "no";
        return make("td", { class: `answer ${kind}${s && !i ? " b" : ""}`, title: idle ? "a question that it depends on was not answered yes" : undefined }, said === null || said === undefined ? "none" : said);
      }));
      return make("tr", {}, make("td", {}, String(q.number)), make("th", { scope: "row" }, q.text, " ", make("small", {}, about)), ...cells);
    });
    return make("div", { class: "scroll" }, make("table", { class: "asked" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
  }

  function card(item) {
    const about = make("p", { class: "about" });
    if (item.expected) about.append(make("b", {}, "expected: "), item.expected.join("; "), make("br"));
    about.append([item.id === item.text ? "" : item.id, ...(item.questions && item.questions.length > 1 ? [] : item.groups)].filter(Boolean).join(" · "));
    const shared = item.images ? [make("div", { class: "shots" }, ...item.images.map((image) => shot(image, item, "image")))] : [];
    const parts = item.sides.map((side, s) => {
      const name = two ? "AB"[s] : shown.sides[s].model;
      const part = make("section", { class: "side", "aria-label": name }, make("h3", {}, two ? make("b", {}, name) : null, verdict(item.values[s], side)));
      if (!side) return part;
      if (side.images) part.append(make("div", { class: "shots" }, ...side.images.map((image) => shot(image, item, name))));
      if (side.answer !== undefined) part.append(make("p", { class: "said" }, make("b", {}, "answered: "), side.answer === "" ? "(nothing)" : side.answer));
      if (side.why) part.append(make("p", { class: "why" }, side.why));
      return part;
    });
    return make("article", { class: "sample", "data-id": item.id }, make("h2", {}, item.text || item.id), about, make("div", { class: `sides${shared.length ? " shared" : ""}` }, ...shared, ...parts), item.questions ? answers(item) : null);
  }

  /* ------------------------------------------------------------------------------------------------------- the page */

  const FIELDS = ["text", "group", "result", "versus", "sort"];
  const box = document.getElementById("items");
  const pages = document.getElementById("pages");
  let page = 0;

  function show() {
    const want = Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value]));
    const words = want.text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = shown.items.filter((item) =>
      words.every((word) => item.words.includes(word)) &&
      (!want.group || item.groups.includes(want.group)) &&
      (!want.result || item.result === want.result) &&
      (!want.versus || (want.versus === "differ" ? differ(item) : item.versus === want.versus)));
    found.sort((SORTS[want.sort] || SORTS.worst)[1]);
    const last = Math.max(Math.ceil(found.length / PAGE) - 1, 0);
    page = Math.min(page, last);
    const from = page * PAGE, part = found.slice(from, from + PAGE);
    box.replaceChildren(...part.map(card));
    if (!part.length) box.append(make("p", { class: "nothing" }, "No sample fits these filters."));
    const lacking = found.filter((item) => item.result === "none").length;
    const chosen = FIELDS.filter((name) => want[name] && name !== "sort").map((name) => form.elements[name]);
    const filters = chosen.map((field) => (field.options ? field.selectedOptions[0].text : `"${field.value}"`)).join(", ");
    document.getElementById("count").replaceChildren(
      `${found.length} of ${shown.items.length} samples` + (found.length > PAGE ? `, ${from + 1} to ${from + part.length} shown` : "") +
      (lacking ? `; ${lacking} of them without a result${two ? " on some side" : ""}` : ""),
      make("span", { class: "printed" }, filters && `; only: ${filters}`));
    pages.hidden = !last;
    pages.querySelector("span").textContent = `page ${page + 1} of ${last + 1}`;
    document.getElementById("previous").disabled = page === 0;
    document.getElementById("next").disabled = page === last;
    const set = new URLSearchParams(Object.entries(want).filter(([name, value]) => value && value !== form.elements[name].dataset.first));
    history.replaceState(null, "", set.size ? `#${set}` : location.pathname + location.search);
  }

  function marks() {
    box.classList.toggle("nobox", !form.elements.boxes.checked);
    box.classList.toggle("nolow", !form.elements.low.checked);
  }

  function restore() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of FIELDS) {
      const field = form.elements[name];
      if (field.options && ![...field.options].some((option) => option.value === (given.get(name) || ""))) field.selectedIndex = 0;
      else field.value = given.get(name) || "";
    }
    page = 0;
    show();
  }

  form.elements.sort.dataset.first = "worst";
  const changed = (event) => {
    if (event.target.type === "checkbox") return marks();
    page = 0;
    show();
  };
  form.addEventListener("change", changed);
  form.elements.text.addEventListener("input", changed);
  document.getElementById("everything").addEventListener("click", () => { form.reset(); marks(); page = 0; show(); });
  for (const [id, step] of [["previous", -1], ["next", 1]])
    document.getElementById(id).addEventListener("click", () => { page += step; show(); form.scrollIntoView(); });
  window.addEventListener("hashchange", restore);
  marks();
  restore();
})();
