/* Draws the figures that run_charts.py describes, as SVG: no library, no network. Colours are variables of the style sheet,
   so that light, dark and print have their own. Figures over the run share one zoom. */
"use strict";
const InteractionCharts = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const zoom = { range: null, redraw: new Set() };

  function node(tag, attributes = {}, parent = null, text = null) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== null) made.textContent = text;
    if (parent) parent.appendChild(made);
    return made;
  }

  const colour = name => (name.startsWith("#") ? name : `var(--${name})`);
  const known = values => values.filter(value => value !== null && isFinite(value));

  const raised = power => String(power).replace("-", "⁻").replace(/\d/g, digit => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);

  function number(value, axis = {}) {
    if (value === null || value === undefined) return "–";
    if (axis.percent) {
      const share = 100 * value;
      return `${Math.abs(share) >= 10 ? share.toFixed(0) : +share.toPrecision(2)}%`;
    }
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(1);
    return String(+value.toPrecision(4));
  }

  function ticks(low, high, count) {
    const raw = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw * 0.999) || raw;
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(+at.toPrecision(12));
    return found.length > 1 || count > 8 ? found : ticks(low, high, 2 * count + 1);  // one number is no scale
  }

  function logTicks(low, high) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const step = Math.max(1, Math.ceil((last - first + 1) / 7));
    const found = [];
    for (let e = last; e >= first; e -= step) found.push(10 ** e);
    return found;
  }

  function scale(low, high, from, to, log) {
    const f = log ? Math.log10 : value => value;
    const a = f(low), b = f(high) === a ? a + 1 : f(high);
    const place = value => from + ((f(log ? Math.max(value, low / 10) : value) - a) / (b - a)) * (to - from);
    place.invert = pixel => { const v = a + ((pixel - from) / (to - from)) * (b - a); return log ? 10 ** v : v; };
    return place;
  }

  const isHeat = panel => panel.series.some(series => series.kind === "heat");

  function yRange(panel) {
    const axis = panel.y || {};
    if (isHeat(panel)) return [0.5, panel.series[0].z.length + 0.5];
    let values = [];
    for (const s of panel.series) for (const key of ["y", "low", "high"]) if (s[key]) values = values.concat(known(s[key]));
    for (const level of panel.levels || []) values.push(level.y);
    if (axis.log) values = values.filter(value => value > 0);
    if (!values.length) return [0, 1];
    let low = Math.min(...values), high = Math.max(...values);
    const bars = panel.series.some(s => s.kind === "bars");
    if (axis.log) return [axis.min ?? low / 1.6, axis.max ?? high * 1.6];
    if (bars || axis.zero) low = Math.min(0, low);
    // A level has its name above it, which needs room where the level is the highest.
    const room = (panel.levels || []).some(level => level.y >= 0.9 * high) ? 0.16 : 0.06;
    const pad = room * (high - (axis.min ?? low) || Math.abs(high) || 1);
    return [axis.min ?? (low === 0 ? 0 : low - pad), axis.max ?? high + pad];
  }

  function xRange(figure, panels) {
    if (figure.run && zoom.range) return zoom.range;
    let values = [];
    for (const panel of panels) for (const s of panel.series) values = values.concat(known(s.x));
    let low = Math.min(...values), high = Math.max(...values);
    if (figure.x.log) return [low, high === low ? low * 10 : high];
    if (panels.some(panel => panel.series.some(s => s.kind === "bars"))) return [low - 0.7, high + 0.7];
    const pad = 0.02 * (high - low) || 0.5;
    return [low - pad, high + pad];
  }

  function line(series, x, y) {
    let path = "", pen = "M";
    series.x.forEach((at, i) => {
      if (series.y[i] === null) { pen = "M"; return; }
      path += `${pen}${x(at).toFixed(1)},${y(series.y[i]).toFixed(1)}`;
      pen = "L";
    });
    return path;
  }

  function edges(values) {
    if (values.length === 1) return [values[0] - 0.5, values[0] + 0.5];
    const middle = values.slice(1).map((value, i) => (value + values[i]) / 2);
    return [2 * values[0] - middle[0], ...middle, 2 * values[values.length - 1] - middle[middle.length - 1]];
  }

  function shade(stops, share) {
    const at = Math.min(1, Math.max(0, share)) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
    const parts = [1, 3, 5].map(k => {
      const [a, b] = [stops[i], stops[i + 1]].map(stop => parseInt(stop.slice(k, k + 2), 16));
      return Math.round(a + (at - i) * (b - a));
    });
    return `rgb(${parts.join(",")})`;
  }

  const DRAW = {
    line(s, x, y, g) {
      node("path", { d: line(s, x, y), fill: "none", stroke: colour(s.color), "stroke-width": s.width || 2, "stroke-dasharray": s.dash || "none" }, g);
      if (s.points || s.x.length === 1) s.x.forEach((at, i) => s.y[i] !== null && node("circle", { cx: x(at), cy: y(s.y[i]), r: 2.6, fill: colour(s.color) }, g));
    },
    points(s, x, y, g) {
      s.x.forEach((at, i) => s.y[i] !== null && node("circle", { cx: x(at), cy: y(s.y[i]), r: 3.5, fill: colour(s.color) }, g));
    },
    band(s, x, y, g) {
      const there = s.x.map((_, i) => i).filter(i => s.low[i] !== null && s.high[i] !== null);
      const top = there.map(i => `${x(s.x[i]).toFixed(1)},${y(s.high[i]).toFixed(1)}`);
      const bottom = there.reverse().map(i => `${x(s.x[i]).toFixed(1)},${y(s.low[i]).toFixed(1)}`);
      if (top.length === 1) {
        const [at, high] = top[0].split(",").map(Number), low = Number(bottom[0].split(",")[1]);
        node("rect", { x: at - 4, width: 8, y: high, height: Math.max(0, low - high), fill: colour(s.color), opacity: s.opacity || 0.18 }, g);
      } else if (top.length) node("polygon", { points: [...top, ...bottom].join(" "), fill: colour(s.color), opacity: s.opacity || 0.18 }, g);
    },
    range(s, x, y, g) {
      s.x.forEach((at, i) => s.low[i] !== null && node("line", { x1: x(at), x2: x(at), y1: y(s.low[i]), y2: y(s.high[i]), stroke: colour(s.color), "stroke-width": 4, opacity: 0.45 }, g));
    },
    bars(s, x, y, g, panel) {
      const groups = panel.series.filter(other => other.kind === "bars"), place = groups.indexOf(s);
      const width = Math.max(1, (0.82 * Math.abs(x(1) - x(0))) / groups.length), zero = y(Math.max(0, y.low));
      s.x.forEach((at, i) => {
        if (s.y[i] === null) return;
        const top = y(s.y[i]), left = x(at) - 0.41 * Math.abs(x(1) - x(0)) + place * width;
        const fill = s.colors ? s.colors[i] : s.open ? "none" : colour(s.color);
        node("rect", { class: "bar", x: left, width, y: Math.min(top, zero), height: Math.max(0, Math.abs(zero - top)), fill, stroke: s.open ? colour(s.color) : "none", "stroke-width": 1.5 }, g);
      });
    },
    heat(s, x, y, g) {
      const ends = edges(s.x);
      s.z.forEach((row, k) => row.forEach((value, i) => {
        if (value === null) node("rect", { x: x(ends[i]), y: y(k + 1.5), width: x(ends[i + 1]) - x(ends[i]) + 0.4, height: y(k + 0.5) - y(k + 1.5) + 0.4, fill: "var(--unknown)" }, g);
        else if (value > 0 || !s.root) node("rect", { x: x(ends[i]), y: y(k + 1.5), width: x(ends[i + 1]) - x(ends[i]) + 0.4, height: y(k + 0.5) - y(k + 1.5) + 0.4, fill: shade(s.stops, s.root ? Math.sqrt(value / s.max) : value / s.max) }, g);
      }));
    },
  };

  function drawPanel(svg, figure, panel, box, lowest, id) {
    const axis = panel.y || {}, clip = `clip-${id}`;
    const [xl, xh] = box.x, [yl, yh] = yRange(panel);
    const x = scale(xl, xh, box.left, box.right, figure.x.log), y = scale(yl, yh, box.bottom, box.top, axis.log);
    y.low = yl;
    const defs = node("clipPath", { id: clip }, svg);
    node("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top }, defs);
    const g = node("g", { "clip-path": `url(#${clip})` }, svg);
    if (isHeat(panel)) node("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, fill: "#fff" }, g);
    for (const [from, to, phase] of isHeat(panel) ? [] : figure.phases || []) {
      const a = from === null ? xl : from, b = to === null ? xh : to;
      if (b > a) node("rect", { x: x(a), width: Math.max(0, x(b) - x(a)), y: box.top, height: box.bottom - box.top, fill: `var(--phase-${phase})` }, g);
    }
    const yTicks = isHeat(panel) ? panel.series[0].z.map((_, k) => k + 1).filter((_, k, all) => all.length <= 12 || k % 2 === 0)
      : axis.log ? logTicks(yl, yh) : ticks(yl, yh, (box.bottom - box.top) / 45);
    for (const at of yTicks) {
      if (!isHeat(panel)) node("line", { x1: box.left, x2: box.right, y1: y(at), y2: y(at), stroke: "var(--line)" }, g);
      if (!box.bare) node("text", { x: box.left - 6, y: y(at) + 4, "text-anchor": "end" }, svg, axis.log && at < 0.01 ? `10${raised(Math.round(Math.log10(at)))}` : number(at, axis));
    }
    const xTicks = figure.x.log ? logTicks(xl, xh) : ticks(xl, xh, (box.right - box.left) / (figure.x.whole ? 24 : 70));
    for (const at of xTicks) {
      if (at < xl || at > xh || ((figure.x.whole || figure.run) && at % 1)) continue;
      node("line", { x1: x(at), x2: x(at), y1: box.bottom, y2: box.bottom + 4, stroke: "var(--soft)" }, svg);
      if (lowest) node("text", { x: x(at), y: box.bottom + 17, "text-anchor": "middle" }, svg, number(at));
    }
    for (const s of panel.series) DRAW[s.kind](s, x, y, g, panel);
    // What lies beyond the end of an axis stands there as a number.
    const points = axis.max == null || axis.log ? [] : panel.series.filter(s => s.kind === "line").flatMap(s => s.x.map((at, i) => [at, s.y[i]]))
      .filter(([at, value]) => value !== null && at >= xl && at <= xh);
    const above = points.filter(([, value]) => value > yh), below = points.filter(([, value]) => value < yl);
    if (above.length) node("text", { x: x(above[0][0]) + 18, y: box.top + 12 }, svg, `↑ ${number(Math.max(...above.map(([, value]) => value)))}`);
    if (below.length) node("text", { x: x(below[0][0]) + 18, y: box.bottom - 6 }, svg, `↓ ${number(Math.min(...below.map(([, value]) => value)))}`);
    for (const level of panel.levels || []) {
      node("line", { x1: box.left, x2: box.right, y1: y(level.y), y2: y(level.y), stroke: "var(--gap)", "stroke-dasharray": "6 4" }, g);
      node("text", { x: box.right - 4, y: y(level.y) - 5, "text-anchor": "end", class: "note" }, svg, level.name);
    }
    for (const mark of figure.marks || []) node("line", { x1: x(mark.x), x2: x(mark.x), y1: box.top, y2: box.bottom, stroke: colour(mark.color), "stroke-width": 2, "stroke-dasharray": mark.dash || "none" }, g);
    node("path", { d: `M${box.left},${box.top}V${box.bottom}H${box.right}`, fill: "none", stroke: "var(--soft)" }, svg);
    if (axis.label && !box.bare) node("text", { transform: `translate(${box.left - 46},${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, svg, axis.label);
    if (lowest) node("text", { x: (box.left + box.right) / 2, y: box.bottom + 34, "text-anchor": "middle" }, svg, figure.x.label);
    return { x, y };
  }

  function legend(holder, figure, panels) {
    const list = document.createElement("ul"), seen = new Set();
    list.className = "legend";
    const maps = panels.filter(isHeat).map(panel => panel.series[0]);
    const shades = maps.map(s => ({ kind: "heat", stops: s.stops, name: `${s.root ? "above 0%" : "0%"} to ${number(s.max, { percent: true })}` }));
    const phases = maps.length ? [] : (figure.phases || []).map(([, , phase]) => ({ kind: "bars", color: `phase-${phase}`, edge: "line", name: `phase ${phase}` }));
    const entries = [...shades, ...panels.flatMap(panel => panel.series).filter(s => s.name && s.kind !== "heat"), ...phases, ...(figure.marks || [])];
    for (const s of entries) {
      if (seen.has(s.name)) continue;
      seen.add(s.name);
      const item = document.createElement("li"), key = node("svg", { width: s.stops ? 56 : 26, height: 12, "aria-hidden": "true" });
      if (s.stops) s.stops.forEach((stop, i) => node("rect", { x: 1 + 6 * i, y: 1, width: 6, height: 10, fill: stop }, key));
      else if (["band", "bars"].includes(s.kind)) node("rect", { x: 4, y: 1, width: 18, height: 10, fill: s.open ? "none" : colour(s.color || "ink"), stroke: colour(s.edge || s.color || "ink"), opacity: s.kind === "band" ? s.opacity || 0.35 : 1 }, key);
      else if (s.kind === "points" || s.kind === "range") node("circle", { cx: 13, cy: 6, r: 4, fill: colour(s.color) }, key);
      else node("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: colour(s.color), "stroke-width": 2, "stroke-dasharray": s.dash || "none" }, key);
      item.append(key, ` ${s.name}`);
      list.append(item);
    }
    if (list.children.length > 1 || maps.length) holder.append(list);
  }

  function readOut(figure, panels, at) {
    const parts = [];
    for (const panel of panels) for (const s of panel.series) {
      const i = s.x.indexOf(at);
      if (i < 0) continue;
      if (s.kind === "heat") {
        s.z.forEach((row, k) => row[i] && parts.push(`order ${k + 1}: ${number(row[i], { percent: true })}`));
      } else if (s.kind === "band" || s.kind === "range") {
        if (s.low[i] !== null && s.name && !s.quiet) parts.push(`${s.name}: ${number(s.low[i], panel.y)} to ${number(s.high[i], panel.y)}`);
      } else if (s.y[i] !== null && s.name) parts.push(`${s.name}: ${number(s.y[i], panel.y)}`);
    }
    return [`${figure.x.label} ${number(at)}`, ...parts];
  }

  let counter = 0;

  function stack(holder, figure) {
    const panels = figure.panels, id = ++counter;
    legend(holder, figure, panels);
    const frame = document.createElement("div"), tip = document.createElement("div");
    frame.className = "frame";
    tip.className = "tip";
    tip.setAttribute("role", "status");
    frame.append(tip);
    holder.append(frame);
    const stops = [...new Set(panels.flatMap(panel => panel.series).flatMap(s => s.x))].sort((a, b) => a - b);
    let svg = null, cursor = null, x = null, chosen = -1, height = 0;

    function show(i) {
      chosen = Math.max(0, Math.min(stops.length - 1, i));
      const place = x(stops[chosen]);
      cursor.setAttribute("x1", place);
      cursor.setAttribute("x2", place);
      cursor.setAttribute("visibility", "visible");
      tip.replaceChildren(...readOut(figure, panels, stops[chosen]).map(text => Object.assign(document.createElement("div"), { textContent: text })));
      tip.style.display = "block";
      const width = frame.clientWidth;
      tip.style.left = place > width / 2 ? "" : `${place + 12}px`;
      tip.style.right = place > width / 2 ? `${width - place + 12}px` : "";
    }
    function hide() {
      tip.style.display = "none";
      cursor.setAttribute("visibility", "hidden");
    }
    const nearest = pixel => {
      const value = x.invert(pixel);
      return stops.reduce((best, stop, i) => (Math.abs(stop - value) < Math.abs(stops[best] - value) ? i : best), 0);
    };

    function draw() {
      const width = Math.max(240, frame.clientWidth || 700), narrow = width < 480;
      const left = 62, right = width - 12;
      height = panels.reduce((sum, panel) => sum + (narrow ? 0.8 : 1) * (panel.height || 220) + 14, 0) + 40;
      const made = node("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": `${holder.getAttribute("aria-label") || "figure"}; arrow keys read the values` });
      let top = 8;
      panels.forEach((panel, i) => {
        const bottom = top + (narrow ? 0.8 : 1) * (panel.height || 220);
        const box = { left, right, top, bottom, x: xRange(figure, panels) };
        x = drawPanel(made, figure, panel, box, i === panels.length - 1, `${id}-${i}`).x;
        top = bottom + 14;
      });
      cursor = node("line", { y1: 8, y2: height - 40, stroke: "var(--soft)", visibility: "hidden" }, made);
      const brush = node("rect", { y: 8, height: height - 48, fill: "var(--soft)", opacity: 0.2, visibility: "hidden" }, made);
      let start = null;
      const at = event => event.clientX - made.getBoundingClientRect().left;
      made.addEventListener("pointermove", event => {
        show(nearest(at(event)));
        if (start !== null && figure.run) {
          brush.setAttribute("x", Math.min(start, at(event)));
          brush.setAttribute("width", Math.abs(at(event) - start));
          brush.setAttribute("visibility", "visible");
        }
      });
      made.addEventListener("pointerdown", event => { start = event.pointerType === "mouse" ? at(event) : null; });
      made.addEventListener("pointerup", event => {
        const ends = start === null ? [] : [start, at(event)].sort((a, b) => a - b);
        start = null;
        brush.setAttribute("visibility", "hidden");
        if (figure.run && ends.length && ends[1] - ends[0] > 12) setZoom(ends.map(x.invert));
      });
      made.addEventListener("pointerleave", hide);
      made.addEventListener("blur", hide);
      made.addEventListener("dblclick", () => setZoom(null));
      made.addEventListener("keydown", event => {
        const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (move) { show(chosen < 0 ? (move > 0 ? 0 : stops.length - 1) : chosen + move); event.preventDefault(); }
        if (event.key === "Home") show(0);
        if (event.key === "End") show(stops.length - 1);
        if (event.key === "Escape") { hide(); setZoom(null); }
      });
      if (svg) svg.replaceWith(made);
      else frame.prepend(made);
      svg = made;
    }
    draw();
    if (figure.run) zoom.redraw.add(draw);
    watch(frame, draw);
  }

  function watch(element, draw) {
    let width = element.clientWidth;
    new ResizeObserver(() => {
      if (Math.abs(element.clientWidth - width) > 1) { width = element.clientWidth; draw(); }
    }).observe(element);
  }

  function setZoom(range) {
    zoom.range = range;
    for (const draw of zoom.redraw) draw();
  }

  function row(holder, figure) {
    legend(holder, figure, figure.panels);
    const grid = document.createElement("div");
    grid.className = "row";
    holder.append(grid);
    const top = Math.max(...figure.panels.map(panel => yRange(panel)[1]));
    for (const panel of figure.panels) {
      const cell = document.createElement("figure"), title = document.createElement("figcaption");
      title.textContent = panel.title;
      if (panel.faint) cell.className = "faint";
      cell.append(title);
      grid.append(cell);
      const width = 150, height = 130, shown = { ...panel, y: { ...panel.y, max: top } };
      const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "xMinYMid", role: "img", "aria-label": `${panel.title}: ${panel.series.map(s => `${s.name || ""} ${s.x.map((at, i) => `${at}: ${number(s.y[i], panel.y)}`).join(", ")}`).join("; ")}` });
      drawPanel(svg, figure, shown, { left: 40, right: width - 4, top: 6, bottom: height - 36, x: xRange(figure, [panel]) }, true, `row-${++counter}`);
      cell.append(svg);
    }
  }

  function frames(holder, figure) {
    const title = document.createElement("p"), slider = document.createElement("input"), body = document.createElement("div");
    title.className = "frame-title";
    title.setAttribute("aria-live", "polite");
    Object.assign(slider, { type: "range", min: 0, max: figure.frames.length - 1, value: figure.first || 0, className: "slider" });
    slider.setAttribute("aria-label", `which ${figure.unit}`);
    const play = Object.assign(document.createElement("button"), { type: "button", textContent: "▶", className: "play" });
    play.setAttribute("aria-label", "play");
    const bar = document.createElement("div");
    bar.className = "controls";
    bar.append(play, slider);
    holder.append(title, body, bar);
    function draw() {
      const frame = figure.frames[+slider.value];
      title.textContent = frame.title;
      body.replaceChildren();
      body.setAttribute("aria-label", frame.title);
      stack(body, { x: figure.x, panels: [{ y: figure.y, height: 240, series: frame.series }] });
    }
    let timer = null;
    play.addEventListener("click", () => {
      if (timer) { clearInterval(timer); timer = null; play.textContent = "▶"; return; }
      if (+slider.value === figure.frames.length - 1) slider.value = 0;
      play.textContent = "❚❚";
      timer = setInterval(() => {
        if (+slider.value >= figure.frames.length - 1) { play.click(); return; }
        slider.value = +slider.value + 1;
        draw();
      }, 350);
    });
    slider.addEventListener("input", draw);
    draw();
  }

  return {
    draw(holder, figure) {
      holder.replaceChildren();
      ({ stack, row, frames })[figure.kind](holder, figure);
    },
    setZoom,
  };
})();
