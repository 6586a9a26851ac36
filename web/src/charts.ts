// Four charts over one time axis, with one cursor: what is pointed at in one is marked in all and told by `explain`.
import uPlot from 'uplot';
import { el, text } from './dom';
import * as f from './format';
import { CLASSES, type History } from './history';

export interface Charts {
  draw(from: number, to: number): void; // the span shown, in wall seconds
  restyle(): void;
  mark(t: number | null): void; // the moment that is kept: a line in every chart. A pointer at rest no longer points.
  read(i: number): void; // the moment whose values stand in the titles
}

interface Line {
  label: string;
  color: string; // CSS variable
  value: (i: number) => number | null;
  fill?: boolean;
  dash?: number[];
  width?: number;
}

interface Spec {
  title: string;
  height: number;
  lines: Line[];
  stacked?: boolean;
  axis: (v: number) => string;
  text: (v: number | null) => string;
  max?: number; // fixed upper end
  floor: number; // the least upper end, so that noise near zero stays small
  limit?: () => number | null; // a dashed level
}

const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const FONT = '11px Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

function specs(h: History): Spec[] {
  const per = (x: number | null, i: number) => (h.gap[i] ? null : x);
  return [
    {
      title: 'Utilisation', height: 164, max: 1, floor: 1, axis: (v) => `${Math.round(100 * v)}\u202f%`, text: f.pct, limit: () => h.limit,
      lines: [
        { label: 'bandwidth', color: '--bandwidth', fill: true, width: 1.75, value: (i) => per(h.bandwidth[i], i) },
        { label: 'compute', color: '--compute', width: 1.75, value: (i) => per(h.compute[i], i) },
      ],
    },
    {
      title: 'Bytes moved', height: 150, floor: 1e6, stacked: true, axis: (v) => f.round(f.si(v, 'B/s')), text: f.rate,
      lines: CLASSES.map((c, k) => ({
        label: c.label, color: c.color, fill: true, width: 1, value: (i: number) => per(h.bytes[k][i], i),
      })),
    },
    {
      title: 'Slowest step', height: 124, floor: 0.001, axis: (v) => f.round(f.duration(v)), text: f.secs,
      lines: [
        { label: 'took', color: '--ink', width: 1.5, value: (i) => per(h.stepS[i], i) },
        { label: 'predicted', color: '--c-move', width: 1.5, dash: [3, 3], value: (i) => per(h.predictedS[i], i) },
      ],
    },
    {
      title: 'Requests', height: 96, floor: 4, axis: (v) => (Number.isInteger(v) ? String(v) : ''), text: (v) => (v == null ? f.NONE : f.count(v)),
      lines: [
        { label: 'running', color: '--c-act', fill: true, width: 1.5, value: (i) => per(h.running[i], i) },
        { label: 'queued', color: '--c-kvw', width: 1.5, value: (i) => per(h.queued[i], i) },
      ],
    },
  ];
}

export function createCharts(
  root: HTMLElement, h: History, onPoint: (t: number | null) => void, onKeep: (t: number | null) => void,
): Charts {
  const all = specs(h);
  const sync = uPlot.sync('time');
  let plots: uPlot[] = [];
  let kept: number | null = null;
  let rested: Event | null = null; // where the pointer was when a moment was kept
  let span: [number, number] = [0, 1];
  let legends: HTMLElement[][] = [];

  function build(): void {
    plots.forEach((p) => p.destroy());
    legends = [];
    root.replaceChildren();
    plots = all.map((spec, n) => {
      const values = spec.lines.map(() => el('b', null, f.NONE));
      const plot = el('div', { class: 'plot', vars: { '--h': `${spec.height + (n === all.length - 1 ? 22 : 0)}px` } });
      root.append(el('div', { class: 'chart' },
        el('div', { class: 'title' }, el('b', null, spec.title),
          ...spec.lines.map((l, k) => el('span', null, el('i', { class: 'swatch', vars: { '--c': `var(${l.color})` } }), l.label, ' ', values[k])),
          spec.limit && el('span', { class: 'limit' })),
        plot));
      legends.push(values);
      return new uPlot(options(spec, n, plot), [[], ...spec.lines.map(() => [])] as uPlot.AlignedData, plot);
    });
  }

  function options(spec: Spec, n: number, box: HTMLElement): uPlot.Options {
    const last = n === all.length - 1;
    const grid = { stroke: css('--line'), width: 1 };
    const ticks = { show: false };
    return {
      width: Math.max(200, box.clientWidth), height: box.clientHeight, pxAlign: true,
      legend: { show: false }, padding: [6, 1, last ? 0 : 6, 0],
      cursor: {
        sync: { key: sync.key }, y: false, drag: { x: false, y: false }, points: { size: 6 },
        bind: { dblclick: () => null },
      },
      scales: {
        x: { time: true, range: () => span },
        y: { range: (_u, _lo, hi) => [0, spec.max ?? Math.max(spec.floor, nice((hi ?? 0) * 1.05))] },
      },
      axes: [
        { show: true, size: last ? 22 : 0, stroke: css('--soft'), font: FONT, grid, ticks, gap: 4, space: 80,
          values: last ? (u, at) => at.map((t) => (u.valToPos(t, 'x') < u.over.clientWidth - 24 ? f.clock(t) : '')) : () => [] },
        { size: 64, stroke: css('--soft'), font: FONT, grid, ticks, gap: 6, space: 28, values: (_u, at) => at.map(spec.axis) },
      ],
      series: [
        {},
        ...spec.lines.map((l) => ({
          stroke: css(l.color), width: l.width ?? 1.5, dash: l.dash, points: { show: false }, spanGaps: false,
          fill: l.fill ? alpha(css(l.color), spec.stacked ? 0.86 : 0.13) : undefined,
        })),
      ],
      bands: spec.stacked ? spec.lines.slice(1).map((_l, k) => ({ series: [k + 2, k + 1] as [number, number] })) : undefined,
      hooks: {
        setCursor: [(u) => {
          // Every redraw tells the pointer's last place again.
          if (u.cursor.event && u.cursor.event !== rested) onPoint(u.cursor.left != null && u.cursor.left >= 0 ? u.posToVal(u.cursor.left, 'x') : null);
        }],
        ready: [(u) => {
          u.over.addEventListener('click', () => {
            const left = u.cursor.left ?? -1;
            if (left >= 0) onKeep(u.posToVal(left, 'x'));
          });
        }],
        draw: [(u) => {
          const limit = spec.limit?.();
          if (limit) rule(u, u.valToPos(limit, 'y', true), false);
          if (kept != null && kept >= span[0] && kept <= span[1]) rule(u, u.valToPos(kept, 'x', true), true);
        }],
      },
    };
  }

  function rule(u: uPlot, at: number, vertical: boolean): void {
    const c = u.ctx, { left, top, width, height } = u.bbox;
    c.save();
    c.strokeStyle = css(vertical ? '--ink' : '--soft');
    c.lineWidth = devicePixelRatio;
    c.setLineDash(vertical ? [] : [4 * devicePixelRatio, 4 * devicePixelRatio]);
    c.beginPath();
    if (vertical) { c.moveTo(at, top); c.lineTo(at, top + height); } else { c.moveTo(left, at); c.lineTo(left + width, at); }
    c.stroke();
    c.restore();
  }

  function draw(from: number, to: number): void {
    span = [from, to];
    let lo = h.find(from);
    if (lo > 0) lo--;
    const n = h.length - lo;
    const x = h.t.slice(lo);
    all.forEach((spec, k) => {
      const cols = spec.lines.map((l) => {
        const c: (number | null)[] = new Array(n);
        for (let i = 0; i < n; i++) c[i] = l.value(lo + i);
        return c;
      });
      if (spec.stacked) {
        for (let s = 1; s < cols.length; s++)
          for (let i = 0; i < n; i++) if (cols[s][i] != null) cols[s][i] = (cols[s][i] as number) + (cols[s - 1][i] ?? 0);
      }
      plots[k].setData([x, ...cols] as uPlot.AlignedData, true);
    });
  }

  function read(i: number): void {
    all.forEach((spec, k) => spec.lines.forEach((l, s) => text(legends[k][s], spec.text(l.value(i)))));
    text(root.querySelector('.limit') as Element, h.limit ? `- - admission limit ${f.pct(h.limit)}` : '');
  }

  build();
  new ResizeObserver(() => {
    for (const p of plots) {
      const box = p.root.parentElement as HTMLElement;
      if (box.clientWidth !== p.width) p.setSize({ width: box.clientWidth, height: box.clientHeight });
    }
  }).observe(root);

  return {
    draw,
    restyle() {
      build();
      draw(...span);
    },
    mark(t) {
      kept = t;
      rested = plots.find((p) => p.cursor.event)?.cursor.event ?? null;
      plots.forEach((p) => p.redraw(false));
    },
    read,
  };
}

// The next 1, 2, 2.5 or 5 times a power of ten.
function nice(x: number): number {
  if (!(x > 0)) return 0;
  const p = 10 ** Math.floor(Math.log10(x));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((m) => m * p).find((v) => v >= x * 0.999) ?? 10 * p;
}

function alpha(hex: string, a: number): string {
  const n = parseInt(hex.slice(1), 16);
  return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${a})`;
}
