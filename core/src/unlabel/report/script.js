"use strict";
// The report's script: theme, curves, map, copying. Everything it shows comes from the JSON in the page, as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const many = data.runs.length > 8;
  const draw = (parent, name, attributes, text) => {
    const node = document.createElementNS(NS, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  };
  const words = (value) => {
    if (value === null || !Number.isFinite(value)) return "—";
    const size = Math.abs(value);
    if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(2);
    return String(Number(value.toPrecision(size >= 1000 ? 6 : 4)));
  };

  // Theme: the reader's system decides until the button does.
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  let chosen = null;
  try { chosen = localStorage.getItem("unlabel-theme"); } catch { /* not allowed from a file, in some browsers */ }
  const paint = () => {
    const dark = chosen ? chosen === "dark" : system.matches;
    root.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
  };
  button.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("unlabel-theme", chosen); } catch { /* as above */ }
    paint();
  });
  system.addEventListener("change", paint);
  paint();
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    for (const node of document.querySelectorAll("figure.chart details")) node.open = true;
  });
  window.addEventListener("afterprint", () => { root.dataset.theme = before; });

  // Curves
  const along = document.getElementById("along");
  const smooth = document.getElementById("smooth");
  const charts = [];

  function ticks(low, high, count) {
    const span = high - low;
    if (!(span > 0)) return [low];
    const rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
    return found;
  }

  function powers(low, high) {
    const found = [];
    for (let at = Math.ceil(low); at <= Math.floor(high); at++) found.push(at);
    return found.length >= 2 ? found : ticks(low, high, 4);
  }

  function smoothed(values) { // exponential mean over about a twentieth of the curve, without a start at zero
    const weight = Math.min(1, 2 / (1 + values.length / 20));
    let sum = 0, total = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = (1 - weight) * sum + weight * value;
      total = (1 - weight) * total + weight;
      return sum / total;
    });
  }

  class Chart {
    constructor(figure, curve) {
      this.figure = figure;
      this.curve = curve;
      this.place = figure.querySelector(".canvas");
      this.readout = figure.querySelector(".readout");
      this.log = false;
      this.view = null; // [from, to] along x, or all of it
      this.cursor = null;
      for (const node of figure.querySelectorAll("[data-do]")) {
        node.addEventListener("click", () => this.act(node.dataset.do));
      }
      this.svg = draw(this.place, "svg", {
        class: "plot", tabindex: "0", role: "application", "aria-roledescription": "chart",
        "aria-label": curve.label + ": left and right move the cursor, plus and minus zoom, 0 shows all, L switches the logarithmic scale",
      });
      this.svg.addEventListener("keydown", (event) => this.key(event));
      this.svg.addEventListener("pointerdown", (event) => this.press(event));
      this.svg.addEventListener("pointermove", (event) => this.move(event));
      this.svg.addEventListener("pointerup", (event) => this.lift(event));
      this.svg.addEventListener("pointercancel", () => { this.from = null; this.render(); });
      this.svg.addEventListener("pointerleave", () => { if (this.from == null) { this.cursor = null; this.render(); } });
      this.svg.addEventListener("dblclick", () => this.act("all"));
      new ResizeObserver(() => this.render()).observe(this.place);
    }

    act(what) {
      if (what === "log") {
        this.log = !this.log;
        this.figure.querySelector('[data-do="log"]').setAttribute("aria-pressed", String(this.log));
      } else if (what === "all") {
        this.view = null;
      } else {
        const [low, high] = this.view || this.extent();
        const middle = this.cursor === null ? (low + high) / 2 : Math.min(high, Math.max(low, this.cursor));
        const factor = what === "in" ? 0.5 : 2;
        this.show(middle - (middle - low) * factor, middle + (high - middle) * factor);
      }
      this.render();
    }

    show(low, high) {
      const [first, last] = this.extent();
      low = Math.max(first, low);
      high = Math.min(last, high);
      if (high - low < (last - first) / 1e5) return;
      this.view = low <= first && high >= last ? null : [low, high];
    }

    extent() {
      return [0, along.value === "share" ? 1 : Math.max(1, ...data.runs.map((run) => run.last))];
    }

    series() {
      const share = along.value === "share";
      return this.curve.series.map((series) => {
        const last = data.runs[series.run].last || 1;
        return {
          run: series.run,
          x: share ? series.x.map((x) => x / last) : series.x,
          y: series.y,
          shown: smooth.checked ? smoothed(series.y) : series.y,
        };
      });
    }

    key(event) {
      const found = this.stops();
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && found.length) {
        let at = this.cursor === null ? (step > 0 ? -1 : found.length) : found.findIndex((x) => x >= this.cursor);
        if (at === -1 && this.cursor !== null) at = found.length;
        at = Math.max(0, Math.min(found.length - 1, at + step * (event.shiftKey ? 10 : 1)));
        this.cursor = found[at];
      } else if (event.key === "Home" && found.length) this.cursor = found[0];
      else if (event.key === "End" && found.length) this.cursor = found[found.length - 1];
      else if (event.key === "+" || event.key === "=") return event.preventDefault(), this.act("in");
      else if (event.key === "-") return event.preventDefault(), this.act("out");
      else if (event.key === "0") return event.preventDefault(), this.act("all");
      else if (event.key.toLowerCase() === "l" && !event.ctrlKey && !event.metaKey) return event.preventDefault(), this.act("log");
      else if (event.key === "Escape") this.cursor = null;
      else return;
      event.preventDefault();
      this.render();
    }

    stops() {
      const [low, high] = this.view || this.extent();
      const all = new Set();
      for (const series of this.series()) for (const x of series.x) if (x >= low && x <= high) all.add(x);
      return [...all].sort((a, b) => a - b);
    }

    at(event) {
      const box = this.svg.getBoundingClientRect();
      const [low, high] = this.view || this.extent();
      const share = (event.clientX - box.left - this.left) / (this.width - this.left - this.right);
      return low + Math.min(1, Math.max(0, share)) * (high - low);
    }

    press(event) {
      if (event.button !== 0) return;
      this.from = this.at(event);
      this.svg.setPointerCapture(event.pointerId);
    }

    move(event) {
      this.cursor = this.at(event);
      this.render();
    }

    lift(event) {
      const from = this.from, to = this.at(event);
      this.from = null;
      const [low, high] = this.view || this.extent();
      if (from != null && Math.abs(to - from) > (high - low) / 50) this.show(Math.min(from, to), Math.max(from, to));
      this.render();
    }

    render() {
      const width = (this.width = Math.max(220, this.place.clientWidth)), height = 210;
      const left = (this.left = 54), right = (this.right = 10), top = 8, bottom = 26;
      const svg = this.svg;
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      svg.replaceChildren();
      const series = this.series(), [from, to] = this.view || this.extent();
      const scale = this.log ? (y) => (y > 0 ? Math.log10(y) : null) : (y) => y;
      let low = Infinity, high = -Infinity;
      for (const one of series) {
        one.x.forEach((x, i) => {
          if (x < from || x > to) return;
          for (const y of smooth.checked ? [one.y[i], one.shown[i]] : [one.y[i]]) {
            const value = y === null ? null : scale(y);
            if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
          }
        });
      }
      if (!(low <= high)) {
        draw(svg, "text", { x: left, y: height / 2 }, this.log ? "Nothing above 0 here: no logarithmic scale." : "No finite value here.");
        this.readout.textContent = "";
        return;
      }
      if (low === high) { const pad = Math.abs(low) * 0.1 || 1; low -= pad; high += pad; } else { const pad = (high - low) * 0.05; low -= pad; high += pad; }
      const px = (x) => left + ((x - from) / (to - from)) * (width - left - right);
      const py = (y) => height - bottom - ((y - low) / (high - low)) * (height - top - bottom);

      for (const at of this.log ? powers(low, high) : ticks(low, high, 4)) {
        draw(svg, "line", { class: "grid", x1: left, x2: width - right, y1: py(at), y2: py(at) });
        draw(svg, "text", { x: left - 6, y: py(at) + 4, "text-anchor": "end" }, words(this.log ? 10 ** at : at));
      }
      const share = along.value === "share";
      for (const at of ticks(from, to, Math.max(2, Math.floor(width / 110)))) {
        if (px(at) > width - right + 1) continue;
        draw(svg, "text", { x: px(at), y: height - 8, "text-anchor": px(at) > width - 40 ? "end" : px(at) < left + 8 ? "start" : "middle" }, share ? `${Math.round(at * 1000) / 10} %` : at.toLocaleString("en"));
      }
      draw(svg, "line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom });
      if (data.runs.length === 1 && data.runs[0].stages.length > 1) {
        for (const stage of data.runs[0].stages) {
          const at = share ? stage.begin / (data.runs[0].last || 1) : stage.begin;
          if (at <= from || at >= to) continue;
          draw(svg, "line", { class: "stage", x1: px(at), x2: px(at), y1: top, y2: height - bottom });
          draw(svg, "text", { x: px(at) + 4, y: top + 10 }, stage.name);
        }
      }
      const clip = `clip-${this.figure.dataset.curve}`;
      draw(draw(draw(svg, "defs", {}), "clipPath", { id: clip }), "rect", { x: left, y: 0, width: width - left - right + 6, height: height - bottom + 6 });
      const plane = draw(svg, "g", { "clip-path": `url(#${clip})` });
      const line = (one, values, extra) => {
        let path = "", pen = false, count = 0, last = null;
        one.x.forEach((x, i) => {
          const value = values[i] === null ? null : scale(values[i]);
          if (value === null) { pen = false; return; }
          path += `${pen ? "L" : "M"}${px(x).toFixed(1)} ${py(value).toFixed(1)}`;
          pen = true; count++; last = [px(x), py(value)];
        });
        const colour = one.run % 8, dash = many ? Math.floor(one.run / 8) % 4 : one.run % 4;
        draw(plane, "path", { class: `curve c${colour} d${dash} ${extra}`, d: path });
        if (count === 1) draw(plane, "circle", { class: `f${colour} ${extra}`, cx: last[0], cy: last[1], r: 4 });
      };
      for (const one of series) {
        if (smooth.checked) line(one, one.y, "faint");
        line(one, one.shown, "");
      }
      if (this.from != null && this.cursor !== null) {
        const a = px(Math.min(this.from, this.cursor)), b = px(Math.max(this.from, this.cursor));
        draw(svg, "rect", { class: "range", x: a, width: b - a, y: top, height: height - top - bottom });
      }
      this.tell(series, px, py, scale, top, height - bottom);
    }

    tell(series, px, py, scale, top, bottom) {
      if (this.cursor === null) {
        this.readout.textContent = series.map((one) => {
          const known = one.y.filter((y) => y !== null);
          return `${data.runs.length > 1 ? data.runs[one.run].name + ": " : ""}${words(known.length ? known[0] : null)} → ${words(known.length ? known[known.length - 1] : null)}`;
        }).join(" · ");
        return;
      }
      const near = series.map((one) => {
        let best = -1;
        one.x.forEach((x, i) => { if (one.y[i] !== null && (best < 0 || Math.abs(x - this.cursor) < Math.abs(one.x[best] - this.cursor))) best = i; });
        return { one, best };
      }).filter(({ best }) => best >= 0);
      if (!near.length) return;
      const closest = near.reduce((a, b) => (Math.abs(b.one.x[b.best] - this.cursor) < Math.abs(a.one.x[a.best] - this.cursor) ? b : a));
      const at = closest.one.x[closest.best];
      draw(this.svg, "line", { class: "cursor", x1: px(at), x2: px(at), y1: top, y2: bottom });
      for (const { one, best } of near) {
        const value = scale(one.shown[best]);
        if (value !== null && one.x[best] >= (this.view || this.extent())[0] && one.x[best] <= (this.view || this.extent())[1]) draw(this.svg, "circle", { class: `f${one.run % 8}`, cx: px(one.x[best]), cy: py(value), r: 4 });
      }
      const place = along.value === "share" ? `${Math.round(at * 1000) / 10} %` : `update ${at.toLocaleString("en")}`;
      this.readout.textContent = `${place}: ` + near.map(({ one, best }) => `${data.runs.length > 1 ? data.runs[one.run].name + " " : ""}${words(one.y[best])}`).join(" · ");
    }
  }

  for (const figure of document.querySelectorAll("figure.chart")) charts.push(new Chart(figure, data.curves[Number(figure.dataset.curve)]));
  if (along) {
    const lengths = new Set(data.runs.map((run) => run.last));
    if (lengths.size > 1) along.value = "share";
    along.addEventListener("change", () => charts.forEach((chart) => { chart.view = null; chart.cursor = null; chart.render(); }));
    smooth.addEventListener("change", () => charts.forEach((chart) => chart.render()));
    document.getElementById("reset-all").addEventListener("click", () => charts.forEach((chart) => chart.act("all")));
    charts.forEach((chart) => chart.render());
  }

  // Map
  class Places {
    constructor(node) {
      this.map = data.maps[Number(node.dataset.map)];
      this.panel = node.querySelector(".panel");
      this.sheet = node.querySelector(".sheet");
      this.chosen = null;
      this.size = 420;
      const svg = (this.svg = draw(node.querySelector(".canvas"), "svg", {
        class: "plot", viewBox: `0 0 ${this.size} ${this.size}`, tabindex: "0", role: "application", "aria-roledescription": "map",
        "aria-label": "Map of samples: the arrow keys go to the nearest sample in that direction",
      }));
      this.points = this.map.x.map((x, i) => [16 + x * (this.size - 32), 16 + (1 - this.map.y[i]) * (this.size - 32)]);
      this.points.forEach(([x, y], i) => {
        const label = this.map.labels ? this.map.labels[i] : 0;
        draw(svg, "circle", { class: `dot f${label < 0 ? 7 : label % 8}`, cx: x, cy: y, r: 5 });
        if (label >= 8) draw(svg, "circle", { class: "hole", cx: x, cy: y, r: 2 });
      });
      this.marks = draw(svg, "g", {});
      const follow = (event) => {
        const box = svg.getBoundingClientRect();
        this.nearest(((event.clientX - box.left) / box.width) * this.size, ((event.clientY - box.top) / box.height) * this.size);
      };
      svg.addEventListener("pointermove", follow);
      svg.addEventListener("pointerdown", follow);
      svg.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (!way) return;
        event.preventDefault();
        this.walk(way);
      });
    }

    nearest(x, y) {
      let best = 0, least = Infinity;
      this.points.forEach(([a, b], i) => { const away = (a - x) ** 2 + (b - y) ** 2; if (away < least) { least = away; best = i; } });
      if (best !== this.chosen) this.choose(best);
    }

    walk([dx, dy]) {
      if (this.chosen === null) return this.nearest(this.size / 2, this.size / 2);
      const [x, y] = this.points[this.chosen];
      let best = null, least = Infinity;
      this.points.forEach(([a, b], i) => {
        const ahead = (a - x) * dx + (b - y) * dy, aside = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
        if (ahead > 0.01 && aside <= 2 * ahead && ahead + 2 * aside < least) { least = ahead + 2 * aside; best = i; }
      });
      if (best !== null) this.choose(best);
    }

    choose(place) {
      this.chosen = place;
      this.marks.replaceChildren();
      const near = this.map.near[place], [x, y] = this.points[place];
      for (const other of near) {
        const [a, b] = this.points[other];
        draw(this.marks, "line", { class: "beside", x1: x, y1: y, x2: a, y2: b });
        draw(this.marks, "circle", { class: "beside", cx: a, cy: b, r: 7 });
      }
      draw(this.marks, "circle", { class: "chosen", cx: x, cy: y, r: 9 });
      const title = document.createElement("p"), list = document.createElement("ol");
      this.line(title, place, 64);
      const caption = document.createElement("p");
      caption.className = "quiet small";
      caption.textContent = "Its nearest neighbours:";
      for (const other of near) this.line(list.appendChild(document.createElement("li")), other, 32);
      this.panel.replaceChildren(title, caption, list);
    }

    line(node, place, size) {
      if (this.sheet) {
        const canvas = document.createElement("canvas"), side = this.map.side;
        canvas.width = canvas.height = size;
        const pen = canvas.getContext("2d");
        pen.imageSmoothingEnabled = false;
        pen.drawImage(this.sheet, 0, place * side, side, side, 0, 0, size, size);
        node.append(canvas, " ");
      }
      const label = this.map.labels && this.map.labels[place] >= 0 ? `${this.map.classes[this.map.labels[place]]} · ` : "";
      const text = document.createElement("span");
      text.textContent = label + this.map.names[place];
      node.append(text);
    }
  }
  for (const node of document.querySelectorAll(".map")) new Places(node);

  // Copying
  for (const node of document.querySelectorAll("[data-copy]")) {
    node.addEventListener("click", async () => {
      const source = node.parentElement.querySelector("pre"), text = source.textContent;
      try {
        await navigator.clipboard.writeText(text);
        node.textContent = "Copied";
      } catch { // no clipboard here: select it, so that the reader's own keys can
        getSelection().selectAllChildren(source);
        node.textContent = "Selected";
      }
      setTimeout(() => { node.textContent = "Copy"; }, 2000);
    });
  }
  root.dataset.ready = "true";
})();
