
/* The tab of TensorBoard: one column for each chosen run, drawn anew when its record has grown. */
const FIGURES = [
  ["curves", "The run at a glance"],
  ["moments", "How much of what it encodes is of one player alone, of two together, and so on"],
  ["heat-map", "Every order over the run"],
  ["orders", "One measurement at a time"],
  ["turnover", "What persisted, appeared and vanished"],
];
const EVERY = 5000;
const WORDS = "Every input is cut into players: patches, words or columns. What the network's output owes to some of them acting together is an interaction, "
  + "their number its order, and ⟨k⟩ the mean order. Interactions of few players are simple patterns, which carry over to new samples; those of many mostly do not. "
  + "In phase one the noise of the random weights goes and ⟨k⟩ falls; in phase two ever more complicated patterns are learned and it rises. "
  + "The share that generalizes is what other networks for the task (twins, references) encode too; it sinks from where over-fitting begins. "
  + "Dragging over a figure zooms all figures over the run, a double click takes that back, and the arrow keys read the values.";

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
    this.found = made("p", { className: "found" });
    this.advice = made("p", { className: "advice" });
    this.measured = made("span", { className: "reading", textContent: "Reading the record; the first time takes some seconds." });
    this.figures = made("div");
    this.element = made("section", { className: "run" }, made("h1", {}, `${name} `, this.measured), this.verdict, this.found, this.advice, this.figures,
      this.more("Samples: their strongest interactions", "samples", answer => samplesOf(answer)),
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
    const [first, ...others] = answer.error ? [answer.error] : answer.verdict;
    this.verdict.textContent = first;
    this.found.textContent = others.join(" ");
    this.found.hidden = !others.length;
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

function stepsOf(sample, players) {
  const marked = sample.steps.some(step => step.shared !== null);
  const cell = (textContent, more = {}) => made("td", { textContent, ...more });
  const heads = ["kind", "order", ...players, ...(sample.named ? ["players"] : []), "adds", "", ...(sample.before ? [sample.before] : []), ...(marked ? ["shared"] : [])];
  const rows = sample.steps.map(step => {
    const who = step.players.length
      ? [made("td", {}, made("span", { textContent: step.label, className: step.label.toLowerCase() })), cell(step.players.length),
        ...players.map(player => cell(!step.players.includes(player) ? "·" : step.label === "OR" ? "○" : "●", { className: "dot" })),
        ...(sample.named ? [cell(step.names.join(", "), { className: "names" })] : [])]
      : [cell(step.label, { colSpan: players.length + 2 + sample.named })];
    const bar = made("i", { className: step.side || "here" });
    Object.assign(bar.style, { left: `${step.left}%`, width: `${step.width}%` });
    return made("tr", {}, ...who, cell(step.effect), made("td", { className: "way" }, bar), ...(sample.before ? [cell(step.before)] : []),
      ...(marked ? [cell(step.shared === null ? "" : step.shared ? "✓" : "–")] : []));
  });
  return made("table", { className: "steps" }, made("tr", {}, ...heads.map(textContent => made("th", { textContent }))), ...rows);
}

function sampleOf(sample, players) {
  const words = sample.sentence.flatMap(([word, player]) => (player === null ? [`${word} `] : [made("b", { textContent: word }), made("sub", { textContent: player }), " "]));
  const title = `Sample ${sample.sample}${sample.target === null ? "" : `, class ${sample.target}`}`;
  return made("section", { className: "sample" }, made("h3", { textContent: title }),
    ...(sample.picture ? [made("div", { className: "table", tabIndex: 0 }, made("img", { src: sample.picture, alt: `${title} with the players of its strongest interactions` }))] : []),
    ...(words.length ? [made("p", { className: "sentence" }, ...words)] : []),
    made("p", { textContent: sample.outcome }), made("div", { className: "table", tabIndex: 0 }, stepsOf(sample, players)));
}

function samplesOf(answer) {
  const players = [...Array(answer.players).keys()];
  const how = "Each table leads from the output of the masked input to that of the input. ● takes part, ○ in an OR interaction, which any one of its players makes act; "
    + "blue speaks for the output, orange against it. A tick marks what references have too.";
  return [made("p", { className: "reading", textContent: how }), ...answer.samples.map(sample => sampleOf(sample, players))];
}

function follow() {
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  try { dark = window.parent.document.body.classList.contains("dark-mode"); } catch (error) { /* shown elsewhere */ }
  document.documentElement.classList.toggle("dark", dark);
  document.documentElement.classList.toggle("light", !dark);
}

export async function render() {
  document.head.append(made("link", { rel: "stylesheet", href: "style.css" }));
  const choice = made("nav"), columns = made("div", { className: "runs" });
  const about = made("details", {}, made("summary", { textContent: "What is shown here" }), made("p", { className: "reading", textContent: WORDS }));
  const main = made("main", { className: "tab" }, choice, about, columns);
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
    choice.hidden = names.length === 1;
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
