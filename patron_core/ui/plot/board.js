// Charts side by side: one axis, one zoom, one hover. What is drawn comes as bytes from `lines.packed`; how somebody
// looks at it goes back as `look`. Foreign words only ever become text, never HTML.

// THEMES, from patron_core/ui/theme.py, stands before this file
const AXES = { step: "step", tokens: "tokens", flops: "training FLOPs", seconds: "machine seconds", usd: "dollars" };
const HALF_LIVES = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000];
const PER_LINE = 4; // series of uPlot: high, low, mean, smooth
const PER_BAND = 3; // high, low, mid

function decode(view) {
  const length = view.getUint32(0, true);
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const floats = new Float64Array(bytes.slice(4 + length).buffer);
  const array = (at) =>
    at ? Array.from(floats.subarray(at[0], at[0] + at[1]), (value) => (Number.isNaN(value) ? null : value)) : null;
  return { ...header, array };
}

function themeNow() {
  const marked = [document.body, document.documentElement];
  if (document.documentElement.dataset.look === "projector") return "projector";
  if (marked.some((each) => each.classList.contains("dark") || each.dataset.theme === "dark")) return "dark";
  return document.body.dataset.jpThemeLight === "false" ? "dark" : "light";
}

function made(tag, properties = {}, ...inner) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...inner);
  return element;
}

function short(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  for (const [limit, sign] of [[1e15, ""], [1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= limit) return sign ? `${+(value / { T: 1e12, B: 1e9, M: 1e6, k: 1e3 }[sign]).toPrecision(4)}${sign}` : value.toExponential(1);
  }
  return size < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(4));
}

// Where a log axis is named: at 1, 2 and 5 of each power of ten; in a narrow window as a linear one is.
function logTicks(low, high) {
  const ticks = [], powers = low > 0 ? Math.log10(high / low) : 0;
  if (powers < 0.7) {
    const power = 10 ** Math.floor(Math.log10((high - low) / 3));
    const step = power * [5, 2, 1].find((each) => each * power <= (high - low) / 3);
    for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(+(k * step).toPrecision(12));
    return ticks;
  }
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const part of powers > 4 ? [1] : [1, 2, 5]) ticks.push(part * 10 ** power);
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

function exact(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  return Math.abs(value) >= 1e4 ? short(value) : String(+value.toPrecision(5));
}

class Chart {
  constructor(board, index) {
    this.board = board;
    this.title = made("div", { className: "pb-title" });
    this.readout = made("div", { className: "pb-readout" });
    this.canvas = made("div", { className: "pb-canvas" });
    this.element = made("div", { className: "pb-panel" }, this.title, this.readout, this.canvas);
    this.element.dataset.index = index;
  }

  show(panel, array) {
    this.panel = panel;
    this.title.textContent = panel.unit ? `${panel.title}, ${panel.unit}` : panel.title;
    const signature = JSON.stringify([panel.lines.map((line) => [line.name, line.colour]), panel.bands.map((band) => band.colour), this.board.style()]);
    const data = this.joined(panel, array);
    if (this.plot && signature === this.signature) {
      this.plot.setData(data, true);
    } else {
      this.signature = signature;
      if (this.plot) this.plot.destroy();
      this.plot = new uPlot(this.options(), data, this.canvas);
    }
    this.read(this.plot.cursor.idx);
    const spikes = panel.lines.map((line) => line.spike_words).filter(Boolean);
    Object.assign(this.element.dataset, {
      points: panel.lines.reduce((sum, line) => sum + line.points, 0),
      drawn: data[0].length,
      spikes: spikes.join("; "),
    });
    if (panel.window) this.element.dataset.window = JSON.stringify(panel.window);
    else delete this.element.dataset.window;
  }

  joined(panel, array) {
    const logX = this.board.look.log_x, logY = this.board.log_y;
    const x = array(panel.x);
    const none = () => new Array(x.length).fill(null);
    const parts = [[x]];
    for (const line of panel.lines) {
      parts[0].push(array(line.high) || none(), array(line.low) || none(), array(line.mean), array(line.smooth) || none());
    }
    for (const band of panel.bands) parts.push([array(band.x), array(band.high), array(band.low), array(band.mid)]);
    let data = parts.length > 1 ? uPlot.join(parts, parts.map((part) => part.map(() => 1))) : parts[0];
    if (logX) {
      const first = data[0].findIndex((value) => value > 0);
      data = data.map((column) => (first < 0 ? [] : column.slice(first)));
    }
    if (logY) data = data.map((column, i) => (i ? column.map((value) => (value > 0 ? value : null)) : column));
    return data;
  }

  options() {
    const { board } = this, { theme } = board, colours = theme.series;
    const series = [{}], bands = [];
    const plain = { spanGaps: true, points: { show: false } };
    const smooth = board.look.smoothing > 0;
    for (const line of this.panel.lines) {
      const colour = colours[line.colour % colours.length];
      bands.push({ series: [series.length, series.length + 1], fill: colour + "40" });
      const edge = { ...plain, stroke: colour + "55", width: 1 };
      series.push({ ...edge }, { ...edge });
      series.push({ ...plain, stroke: smooth ? colour + "55" : colour, width: theme.stroke_px, points: { show: (u, i) => u.data[i].filter((v) => v != null).length <= 60, size: 5, fill: colour } });
      series.push({ ...plain, stroke: colour, width: 1.25 * theme.stroke_px });
    }
    for (const { colour } of this.panel.bands) {
      const ofLine = colour === null ? null : colours[colour % colours.length];
      bands.push({ series: [series.length, series.length + 1], fill: ofLine ? ofLine + "30" : theme.quiet + "2a" });
      series.push({ ...plain, stroke: "#0000", width: 0 }, { ...plain, stroke: "#0000", width: 0 });
      series.push({ ...plain, stroke: ofLine || theme.quiet, width: theme.stroke_px, dash: [5, 4] });
    }
    const font = `${theme.font_px}px system-ui, sans-serif`, room = theme.font_px / 11;
    const axis = (words, isLog) => ({
      stroke: theme.quiet, grid: { stroke: theme.line + "99", width: 1 }, ticks: { stroke: theme.line, width: 1, size: 4 },
      font, labelFont: font,
      values: (u, ticks) => ticks.map((value) => (value === null ? "" : words(value))),
      ...(isLog ? { splits: (u, at, low, high) => logTicks(low, high), filter: (u, ticks) => ticks } : {}),
    });
    const dollars = board.look.axis === "usd";
    return {
      width: Math.max(200, this.canvas.clientWidth || 420), height: this.height(), legend: { show: false }, series, bands,
      scales: {
        x: { time: false, distr: board.look.log_x ? 3 : 1, range: (u) => this.xRange(u) },
        y: { distr: board.log_y ? 3 : 1, range: () => this.yRange() },
      },
      axes: [
        { ...axis((value) => (dollars ? `$${short(value)}` : short(value)), board.look.log_x), label: this.xTitle(), labelSize: 16 * room, size: 30 * room },
        { ...axis(short, board.log_y), size: 52 * room },
      ],
      cursor: {
        sync: { key: board.key, setSeries: false }, drag: { x: true, y: false, setScale: false },
        points: { size: (u, i) => (this.isMean(i) ? 7 : 0) },
      },
      hooks: {
        setSelect: [(u) => this.selected(u)],
        setCursor: [(u) => this.read(u.cursor.idx)],
        draw: [(u) => this.draw(u)],
      },
    };
  }

  xTitle() {
    return AXES[this.board.look.axis] || "step";
  }

  isMean(i) {
    const lines = this.panel.lines.length * PER_LINE;
    return i > 0 && i <= lines && (i - 1) % PER_LINE === 2;
  }

  height() {
    return this.board.theme.chart_height_px;
  }

  xRange(u) {
    const { look } = this.board, xs = u.data[0];
    if (look.low !== undefined && look.low !== null) return [look.low, look.high];
    if (!xs || !xs.length) return look.log_x ? [1, 10] : [0, 1];
    const first = look.log_x ? xs[0] : Math.min(0, xs[0]), last = Math.max(xs[xs.length - 1], this.panel.end || 0);
    return last > first ? [first, last] : look.log_x ? [first / 2, first * 2] : [first, first + 1];
  }

  yRange() {
    let [low, high] = this.board.fit_spikes ? this.panel.y : this.panel.y_calm;
    if (this.board.log_y) {
      low = low > 0 ? low : high > 0 ? high / 1e4 : 0.1;
      high = high > low ? high : low * 10;
      const room = (high / low) ** 0.05;
      return [low / room, high * room];
    }
    const room = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
    return [low - room, high + room];
  }

  selected(u) {
    if (u.select.width < 4) return;
    const low = u.posToVal(u.select.left, "x"), high = u.posToVal(u.select.left + u.select.width, "x");
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.board.change({ low, high });
  }

  read(index) {
    const hovered = index !== null && index !== undefined;
    const { lines, bands, marks } = this.panel, data = this.plot.data, { theme } = this.board;
    const at = (i) => {
      let k = hovered ? index : data[i].length - 1;
      while (k >= 0 && data[i][k] == null) k--;
      return k < 0 ? null : data[i][k];
    };
    const said = [];
    if (hovered) said.push(made("b", { textContent: `${AXES[this.board.look.axis]} ${exact(data[0][index])}` }));
    lines.forEach((line, i) => {
      const base = 1 + i * PER_LINE, mean = at(base + 2), smooth = at(base + 3);
      if (mean == null) return;
      const swatch = made("i", { className: "pb-swatch" });
      swatch.style.background = theme.series[line.colour % theme.series.length];
      const [low, high] = hovered ? this.around(index, base) : [null, null];
      const range = high != null && high > low ? ` (${exact(low)} to ${exact(high)})` : "";
      const name = lines.length > 1 ? `${line.name} ` : "";
      const value = smooth != null ? `${exact(smooth)}, as logged ${exact(mean)}` : exact(mean);
      const spikes = line.spike_words && !hovered ? ` · ${line.spike_words}` : "";
      said.push(made("span", {}, swatch, `${name}${value}${range}${spikes}`));
    });
    bands.forEach((band, i) => {
      const base = 1 + lines.length * PER_LINE + i * PER_BAND;
      const [high, low, mid] = [at(base), at(base + 1), at(base + 2)];
      if (mid != null) said.push(made("span", { className: "pb-quiet" }, `${band.name} ${exact(mid)} (${exact(low)} to ${exact(high)})`));
    });
    if (hovered) {
      const near = marks.filter((mark) => Math.abs(this.plot.valToPos(mark.x, "x") - this.plot.cursor.left) < 5).slice(0, 3);
      for (const mark of near) {
        const words = made("span", { textContent: mark.words });
        words.style.color = mark.kind === "trouble" ? theme.bad : theme.quiet;
        said.push(words);
      }
    }
    this.readout.replaceChildren(...said);
  }

  // Lowest and highest of what lies under the mouse: a pixel may hold several columns, and a spike is in one of them.
  around(index, base) {
    const { data } = this.plot, x = data[0][index];
    const at = this.plot.valToPos(x, "x");
    const near = Math.max(Math.abs(this.plot.posToVal(at + 2, "x") - x), Math.abs(this.plot.posToVal(at - 2, "x") - x));
    let low = null, high = null;
    for (const step of [-1, 1]) {
      for (let k = index; k >= 0 && k < data[0].length && Math.abs(data[0][k] - x) <= near; k += step) {
        const [top, foot] = [data[base][k] ?? data[base + 2][k], data[base + 1][k] ?? data[base + 2][k]];
        if (top == null) continue;
        high = high === null ? top : Math.max(high, top);
        low = low === null ? foot : Math.min(low, foot);
      }
    }
    return [low, high];
  }

  draw(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    this.drawMarks(u, ctx, bbox, devicePixelRatio || 1);
    this.drawPoints(u, ctx, devicePixelRatio || 1);
    ctx.restore();
  }

  drawMarks(u, ctx, bbox, scale) {
    const { theme } = this.board;
    for (const mark of this.panel.marks) {
      const x = u.valToPos(mark.x, "x", true), foot = bbox.top + bbox.height;
      ctx.strokeStyle = ctx.fillStyle = mark.kind === "trouble" ? theme.bad : theme.quiet;
      ctx.lineWidth = scale;
      ctx.beginPath();
      if (mark.kind === "dot") {
        ctx.arc(x, bbox.top + 4 * scale, 2 * scale, 0, 2 * Math.PI);
        ctx.fill();
      } else if (mark.kind === "tick") {
        ctx.moveTo(x, foot - 6 * scale);
        ctx.lineTo(x - 3 * scale, foot);
        ctx.lineTo(x + 3 * scale, foot);
        ctx.fill();
      } else {
        ctx.setLineDash([3 * scale, 3 * scale]);
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, foot);
        ctx.stroke();
        ctx.setLineDash([]);
      }
    }
  }

  drawPoints(u, ctx, scale) {
    const colours = this.board.theme.series;
    for (const line of this.panel.lines) {
      for (const [at, value] of line.spikes) {
        if (!this.board.fit_spikes && (value > this.panel.y_calm[1] || value < this.panel.y_calm[0])) continue;
        ctx.fillStyle = ctx.strokeStyle = colours[line.colour % colours.length];
        ctx.lineWidth = 1.5 * scale;
        ctx.beginPath();
        ctx.arc(u.valToPos(at, "x", true), u.valToPos(value, "y", true), 4 * scale, 0, 2 * Math.PI);
        ctx.stroke();
      }
    }
  }
}

class BoardView {
  constructor(model, element) {
    this.model = model;
    this.key = `patron-${Math.random().toString(36).slice(2)}`;
    this.look = { axis: "step", log_x: false, smoothing: 0, ...model.get("look") };
    this.log_y = false;
    this.fit_spikes = true;
    this.theme = THEMES[themeNow()];
    this.charts = [];
    this.grid = made("div", { className: "pb-grid" });
    this.root = made("div", { className: "pb-root" }, this.controls(), this.grid);
    Object.assign(this.root.dataset, { ticks: 0, theme: themeNow() });
    element.append(this.root);
    this.resized = new ResizeObserver(() => this.fit());
    this.resized.observe(this.grid);
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) this.charts[entry.target.dataset.index] && (this.charts[entry.target.dataset.index].isSeen = entry.isIntersecting);
      this.draw();
    });
    this.themed = new MutationObserver(() => this.retheme());
    for (const each of [document.body, document.documentElement]) {
      this.themed.observe(each, { attributes: true, attributeFilter: ["class", "data-theme", "data-jp-theme-light", "data-look"] });
    }
    this.grid.addEventListener("dblclick", () => this.change({ low: null, high: null }));
  }

  style() {
    return [themeNow(), this.look.axis, this.look.log_x, this.look.smoothing > 0, this.log_y];
  }

  controls() {
    const check = (words, checked, then) => {
      const box = made("input", { type: "checkbox", checked, onchange: () => then(box.checked) });
      return made("label", {}, box, words);
    };
    this.axis = made("select", { onchange: () => this.change({ axis: this.axis.value, low: null, high: null }) });
    const smoothing = made("input", { type: "range", min: 0, max: HALF_LIVES.length - 1, step: 1, value: HALF_LIVES.indexOf(this.look.smoothing) });
    const half = made("span", { className: "pb-half" });
    const say = () => (half.textContent = HALF_LIVES[smoothing.value] ? `half-life ${HALF_LIVES[smoothing.value].toLocaleString("en-US")}` : "none");
    smoothing.oninput = say;
    smoothing.onchange = () => this.change({ smoothing: HALF_LIVES[smoothing.value] });
    say();
    this.all = made("button", { type: "button", textContent: "Show all", hidden: true, onclick: () => this.change({ low: null, high: null }) });
    const against = made("label", {}, "against ", this.axis);
    const spikes = check("spikes", true, (fit) => { this.fit_spikes = fit; this.update(); });
    const smoother = made("label", {}, "smoothing ", smoothing, half);
    this.ofCurves = [against, spikes, smoother];
    return made(
      "div", { className: "pb-controls" },
      against,
      check("log x", this.look.log_x, (log_x) => this.change({ log_x, low: null, high: null })),
      check("log y", false, (log_y) => { this.log_y = log_y; this.update(); }),
      spikes,
      smoother,
      this.all,
      made("span", { className: "pb-quiet" }, "drag to zoom, double click for all"),
    );
  }

  change(some) {
    this.look = { ...this.look, ...some };
    this.model.set("look", this.look);
    this.model.save_changes();
    this.update(); // coarse until the columns of the window come
  }

  update() {
    const view = this.model.get("block");
    if (!view || !view.byteLength) return;
    const block = decode(view);
    const axes = this.model.get("axes");
    if (axes.join() !== Array.from(this.axis.options, (option) => option.value).join()) {
      this.axis.replaceChildren(...axes.map((axis) => made("option", { value: axis, textContent: AXES[axis] })));
    }
    this.axis.value = this.look.axis;
    this.all.hidden = this.look.low === undefined || this.look.low === null;
    if (block.axis !== this.look.axis) return; // of before the change: its columns are on another axis
    while (this.charts.length > block.panels.length) this.charts.pop().element.remove();
    for (const each of this.ofCurves) each.hidden = !block.panels.some((panel) => panel.lines.length);
    while (this.charts.length < block.panels.length) {
      const OfIts = block.panels[this.charts.length].points ? PointsChart : Chart;
      this.charts.push(new OfIts(this, this.charts.length));
      this.grid.append(this.charts.at(-1).element);
      this.seen.observe(this.charts.at(-1).element);
    }
    this.charts.forEach((chart, i) => (chart.news = () => chart.show(block.panels[i], block.array)));
    this.root.dataset.ticks = Number(this.root.dataset.ticks) + 1;
    this.draw();
  }

  // One chart after the other, each in a task of its own, and only those that are seen: a page that scrolls stays smooth.
  draw() {
    if (this.drawing) return;
    const next = this.charts.find((chart) => chart.news && (chart.isSeen || !chart.plot));
    if (!next) return;
    this.drawing = setTimeout(() => {
      this.drawing = 0;
      const { news } = next;
      next.news = null;
      if (this.charts.includes(next)) news();
      this.draw();
    });
  }

  fit() {
    for (const chart of this.charts) {
      const width = chart.canvas.clientWidth;
      if (chart.plot && width && Math.abs(width - chart.plot.width) > 1) chart.plot.setSize({ width, height: chart.height() });
    }
  }

  retheme() {
    const theme = THEMES[themeNow()];
    if (theme === this.theme) return;
    this.theme = theme;
    this.root.dataset.theme = themeNow();
    this.update();
    this.fit();
  }

  close() {
    clearTimeout(this.drawing);
    this.resized.disconnect();
    this.seen.disconnect();
    this.themed.disconnect();
    for (const chart of this.charts) if (chart.plot) chart.plot.destroy();
  }
}

export default {
  render({ model, el }) {
    const board = new BoardView(model, el);
    const update = () => board.update();
    model.on("change:block", update);
    model.on("change:axes", update);
    board.update();
    return () => {
      model.off("change:block", update);
      model.off("change:axes", update);
      board.close();
    };
  },
};
