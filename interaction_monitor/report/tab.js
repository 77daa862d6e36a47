
/* The tab of TensorBoard: one column for each chosen run, drawn anew when its record has grown. */
const FIGURES = [
  ["curves", "Mean order and losses"],
  ["generalizing", "Part of the strength that references have too"],
  ["moments", "Which orders carry the interactions, at six moments"],
  ["heat-map", "Every order over the run"],
  ["orders", "One measurement at a time"],
  ["turnover", "What persisted, appeared and vanished"],
];
const EVERY = 5000;

function made(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

const ask = async (path, name) => (await fetch(name === undefined ? path : `${path}?${new URLSearchParams({ name })}`)).json();

class Run {
  constructor(name) {
    this.name = name;
    this.shown = "";
    this.holders = new Map();
    this.verdict = made("p", { className: "verdict" });
    this.advice = made("p", { className: "advice" });
    this.measured = made("p", { className: "reading", textContent: "Reading the record; the first time takes some seconds." });
    this.figures = made("div");
    this.element = made("section", { className: "run" }, made("h1", { textContent: name }), this.verdict, this.advice, this.measured, this.figures,
      this.more("Samples: their strongest interactions", "samples", answer => answer.samples.map(sampleOf)),
      this.more("The theory laid over it", "theory", answer => this.theory(answer)));
  }

  more(title, path, build) {
    const body = made("div"), part = made("details", { className: "part" }, made("summary", { textContent: title }), body);
    part.addEventListener("toggle", async () => {
      if (!part.open) return;
      body.replaceChildren(made("p", { className: "reading", textContent: "…" }));
      const answer = await ask(path, this.name);
      body.replaceChildren(...(answer.error ? [made("p", { className: "note", textContent: answer.error })] : build(answer)));
      for (const holder of body.querySelectorAll(".figure")) InteractionCharts.draw(holder, holder.figure);
    });
    return part;
  }

  theory(answer) {
    const figures = Object.values(answer.figures).map(figure => made("div", { className: "figure", figure }));
    return [...answer.findings.map(textContent => made("p", { textContent })), ...figures];
  }

  async refresh() {
    const answer = await ask("run", this.name), text = JSON.stringify(answer);
    if (text === this.shown) return;
    this.shown = text;
    this.verdict.textContent = answer.error || answer.verdict;
    this.advice.textContent = answer.advice || "";
    this.advice.hidden = !answer.advice;
    this.measured.textContent = answer.measured || "";
    for (const [key, title] of FIGURES) {
      const figure = (answer.figures || {})[key];
      if (!figure) continue;
      if (!this.holders.has(key)) {
        const holder = made("div", { className: "figure" });
        holder.setAttribute("aria-label", title);
        holder.dataset.figure = key;
        this.holders.set(key, holder);
        this.figures.append(made("h3", { textContent: title }), holder);
      }
      InteractionCharts.draw(this.holders.get(key), figure);
    }
  }
}

function sampleOf(sample) {
  const rows = sample.interactions.map(cells => made("tr", {}, ...cells.map(textContent => made("td", { textContent }))));
  const words = sample.sentence.flatMap(([word, player]) => (player === null ? [`${word} `] : [made("b", { textContent: word }), made("sub", { textContent: player }), " "]));
  return made("section", { className: "sample" }, made("h3", { textContent: sample.title }),
    ...(sample.picture ? [made("img", { src: sample.picture, alt: `${sample.title} with the players of its strongest interactions` })] : []),
    ...(words.length ? [made("p", { className: "sentence" }, ...words)] : []),
    made("div", { className: "table" }, made("table", {}, ...rows)));
}

function follow() {
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  try { dark = window.parent.document.body.classList.contains("dark-mode"); } catch (error) { /* shown elsewhere */ }
  document.documentElement.classList.toggle("dark", dark);
  document.documentElement.classList.toggle("light", !dark);
}

export async function render() {
  document.head.append(made("link", { rel: "stylesheet", href: "style.css" }));
  const choice = made("nav"), columns = made("div", { className: "runs" }), main = made("main", { className: "tab" }, choice, columns);
  document.body.append(main);
  const runs = new Map(), chosen = new Set();
  follow();

  async function refresh() {
    follow();
    const names = await ask("runs");
    for (const name of names) {
      if (runs.has(name)) continue;
      runs.set(name, new Run(name));
      if (chosen.size < 2) chosen.add(name);
      const box = made("input", { type: "checkbox", checked: chosen.has(name) });
      box.addEventListener("change", () => { box.checked ? chosen.add(name) : chosen.delete(name); refresh(); });
      choice.append(made("label", {}, box, ` ${name}`));
    }
    if (!names.length) choice.textContent = "No run below the log folder has a record yet.";
    for (const [name, run] of runs) {
      if (!chosen.has(name) || !names.includes(name)) run.element.remove();
      else {
        if (!run.element.isConnected) columns.append(run.element);
        await run.refresh();
      }
    }
  }

  async function again() {
    try { if (!document.hidden) await refresh(); } catch (error) { /* TensorBoard may be away for a moment */ }
    setTimeout(again, EVERY);
  }
  await again();
}
