// Results as points with bars, as `points.Points` packs them; on a board, beside or instead of curves.

const SHAPES = [
  (ctx, x, y, r) => ctx.arc(x, y, r, 0, 2 * Math.PI),
  (ctx, x, y, r) => ctx.rect(x - r, y - r, 2 * r, 2 * r),
  (ctx, x, y, r) => polygon(ctx, [[x, y - 1.4 * r], [x + 1.3 * r, y + r], [x - 1.3 * r, y + r]]),
  (ctx, x, y, r) => polygon(ctx, [[x, y - 1.4 * r], [x + 1.4 * r, y], [x, y + 1.4 * r], [x - 1.4 * r, y]]),
];
const SIGNS = ["●", "■", "▲", "◆"];
const NEAR = 24; // CSS pixels from the mouse to the point that is read
const SAME = 5; // from there to one that it hides

function polygon(ctx, corners) {
  corners.forEach(([x, y], i) => (i ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
  ctx.closePath();
}

class PointsChart extends Chart {
  joined(panel, array) {
    const { points } = panel;
    this.points = { ...points };
    for (const side of ["x_low", "x_high", "y", "y_low", "y_high"]) this.points[side] = array(points[side]);
    this.points.x = array(panel.x);
    return [this.points.x, this.points.y];
  }

  show(panel, array) {
    const began = performance.now();
    this.drawn = () => (this.element.dataset.drawnMs = performance.now() - began);
    super.show(panel, array);
    this.element.dataset.points = this.points.x.length;
  }

  options() {
    const options = super.options();
    options.series = [{}, { paths: () => null, points: { show: false } }];
    options.cursor.points = { show: false };
    return options;
  }

  height() {
    return 1.5 * super.height(); // it has the page's width
  }

  xTitle() {
    return this.panel.x_title;
  }

  xRange() {
    const { look } = this.board, [first, last] = this.panel.x_span;
    if (look.low !== undefined && look.low !== null) return [look.low, look.high];
    if (look.log_x) return [this.panel.x_least / 1.3, Math.max(last, this.panel.x_least) * 1.3];
    return [Math.min(0, first), last > 0 ? 1.05 * last : 1];
  }

  yRange() {
    this.panel.y_calm = this.panel.y;
    return super.yRange();
  }

  drawPoints(u, ctx, scale) {
    const { x, x_low, x_high, y, y_low, y_high, kind, group, names, are_named } = this.points;
    const { ink: text, font_px } = this.board.theme;
    const colour = (i) => this.board.theme.series[this.panel.kinds[kind[i]][1] % this.board.theme.series.length];
    const across = (value) => (this.board.look.log_x && value <= 0 ? u.bbox.left : u.valToPos(value, "x", true));
    const up = (value) => u.valToPos(value, "y", true);
    ctx.lineWidth = 2 * scale;
    ctx.globalAlpha = are_named ? 0.5 : 0.15;
    for (let i = 0; i < x.length; i++) {
      ctx.strokeStyle = colour(i);
      ctx.beginPath();
      ctx.moveTo(across(x_low[i]), up(y[i]));
      ctx.lineTo(across(x_high[i]), up(y[i]));
      ctx.moveTo(across(x[i]), up(y_low[i]));
      ctx.lineTo(across(x[i]), up(y_high[i]));
      ctx.stroke();
    }
    ctx.globalAlpha = 1;
    const radius = (are_named ? 4.5 : 3) * scale;
    ctx.textAlign = "left"; // the axes leave theirs
    ctx.textBaseline = "alphabetic";
    ctx.font = `600 ${(font_px + 1) * scale}px system-ui, sans-serif`;
    for (let i = 0; i < x.length; i++) {
      ctx.fillStyle = colour(i);
      ctx.beginPath();
      SHAPES[group[i] % SHAPES.length](ctx, across(x[i]), up(y[i]), radius);
      ctx.fill();
      if (are_named) this.drawWords(u, ctx, names[i], across(x[i]), 2 * radius, up(y[i]) - 2 * radius);
    }
    ctx.font = `${font_px * scale}px system-ui, sans-serif`;
    ctx.fillStyle = text;
    for (const mark of this.panel.marks) {
      this.drawWords(u, ctx, mark.words, u.valToPos(mark.x, "x", true), 5 * scale, u.bbox.top + (font_px + 1) * scale);
    }
    this.drawn();
  }

  // To the right of what they are of; less far where there is no room; not at all where that is out of the window.
  drawWords(u, ctx, words, at, away, y) {
    const right = u.bbox.left + u.bbox.width;
    if (at < u.bbox.left || at > right) return;
    ctx.fillText(words, Math.min(at + away, right - ctx.measureText(words).width), y);
  }

  read() {
    const { left, top } = this.plot.cursor, [i, ...hidden] = left >= 0 ? this.nearest(left, top) : [];
    const swatch = (sign, colour) => {
      const made_ = made("span", { textContent: `${sign} ` });
      if (colour !== undefined) made_.style.color = this.board.theme.series[colour % this.board.theme.series.length];
      return made_;
    };
    const { kind, group, words } = this.points, { kinds, groups } = this.panel;
    if (i !== undefined) {
      const also = hidden.length ? [made("span", { className: "pb-quiet" }, `and there: ${hidden.map((j) => words[j].split(",")[0]).join(", ")}`)] : [];
      this.readout.replaceChildren(made("span", {}, swatch(SIGNS[group[i] % SIGNS.length], kinds[kind[i]][1]), words[i]), ...also);
      return;
    }
    const had = new Set(kind);
    this.readout.replaceChildren(
      ...kinds.filter((_, k) => had.has(k)).map(([said, colour]) => made("span", {}, swatch(SIGNS[0], colour), said)),
      ...(groups.length > 1 ? groups.map((said, k) => made("span", { className: "pb-quiet" }, swatch(SIGNS[k % SIGNS.length]), said)) : []),
    );
  }

  // The point next to the mouse, and those that it hides.
  nearest(left, top) {
    const { x, y } = this.points, { plot } = this;
    const away = (i, left, top) => Math.hypot(plot.valToPos(x[i], "x") - left, plot.valToPos(y[i], "y") - top);
    let found = -1, least = NEAR;
    for (let i = 0; i < x.length; i++) {
      const here = away(i, left, top);
      if (here < least) [found, least] = [i, here];
    }
    if (found < 0) return [];
    const at = [plot.valToPos(x[found], "x"), plot.valToPos(y[found], "y")];
    return [found, ...Array.from(x, (_, i) => i).filter((i) => i !== found && away(i, ...at) < SAME)];
  }
}
