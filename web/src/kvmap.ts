// The KV pool as a field of cells: free, cached, shared, or in its owner's colour.
import type { State } from './api';
import { $, el, text } from './dom';
import * as f from './format';

const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// Owners beyond the palette take its colours again; pointing at one tells them apart.
const PALETTE: Record<string, string[]> = {
  light: ['#2f7fc1', '#e0912a', '#14907a', '#a4609c', '#c2491d', '#6b7fd7', '#8a7a1f', '#4aa3c7'],
  dark: ['#4f9bdc', '#edb25c', '#35b59b', '#c58abf', '#e2724a', '#93a2ec', '#c9b84e', '#7cc6e6'],
};
const CACHED = -1, FREE = -2, SHARED = -3;

// A running request keeps its colour as long as it runs.
const slots = new Map<string, number>();
export function colorOf(id: string): string {
  const palette = PALETTE[document.documentElement.dataset.theme === 'dark' ? 'dark' : 'light'];
  return palette[(slots.get(id) ?? 0) % palette.length];
}

export function assignColors(ids: string[]): void {
  const live = new Set(ids);
  for (const id of slots.keys()) if (!live.has(id)) slots.delete(id);
  const used = new Set(slots.values());
  let next = 0;
  for (const id of ids) {
    if (slots.has(id)) continue;
    while (used.has(next)) next++;
    used.add(next);
    slots.set(id, next);
  }
}

export function createKvMap() {
  const canvas = $<HTMLCanvasElement>('kv-map');
  const box = canvas.parentElement as HTMLElement;
  let state: State | null = null;
  let owners = new Int16Array(0);
  let grid = { cols: 1, w: 1, h: 1 };
  let pointed: number | null = null; // an owner: index into running, or CACHED...
  let pointedId: string | null = null;

  function unpack(s: State): void {
    const n = s.kv.map.cells.reduce((a, c) => a + c[1], 0);
    if (owners.length !== n) owners = new Int16Array(n);
    let at = 0;
    for (const [owner, run] of s.kv.map.cells) owners.fill(owner, at, at += run);
  }

  function fit(n: number, w: number, h: number): void {
    let size = Math.max(2, Math.min(22, Math.floor(Math.sqrt((w * h) / Math.max(n, 1)))));
    while (size > 2 && Math.ceil(n / Math.floor(w / size)) * size > h) size--;
    const cols = Math.max(1, Math.floor(w / size)); // cells are as tall as there is room, up to twice their width
    grid = { cols, w: size, h: Math.max(2, Math.min(2 * size, Math.floor(h / Math.ceil(n / cols)))) };
  }

  function draw(): void {
    const s = state;
    const w = box.clientWidth, h = box.clientHeight, ratio = devicePixelRatio || 1;
    if (!s || !w) return;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    const c = canvas.getContext('2d') as CanvasRenderingContext2D;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    fit(owners.length, w, h);
    const { cols } = grid, gap = grid.w > 5 ? 1 : grid.w > 3 ? 0.5 : 0;
    const free = css('--sunk'), cached = css('--cached'), shared = css('--soft'), line = css('--line');
    for (let i = 0; i < owners.length; i++) {
      const o = owners[i], x = (i % cols) * grid.w, y = Math.floor(i / cols) * grid.h;
      c.globalAlpha = pointed == null || pointed === o ? 1 : 0.22;
      c.fillStyle = o >= 0 ? colorOf(s.running[o]?.id ?? '') : o === FREE ? free : o === SHARED ? shared : cached;
      c.fillRect(x, y, grid.w - gap, grid.h - gap);
      if (o === FREE && grid.w > 6) {
        c.strokeStyle = line;
        c.strokeRect(x + 0.5, y + 0.5, grid.w - gap - 1, grid.h - gap - 1);
      }
    }
    c.globalAlpha = 1;
  }

  function describe(): void {
    const s = state;
    if (!s) return;
    const tip = $('kv-tip');
    const per = s.kv.map.chunks_per_cell;
    if (pointed == null) {
      text(tip, per > 1 ? `A cell stands for ${per} chunks of ${s.kv.chunk_tokens} tokens.` : `A cell is a chunk of ${s.kv.chunk_tokens} tokens.`);
      return;
    }
    const r = pointed >= 0 ? s.running[pointed] : null;
    text(tip, r ? `${r.id}: ${f.plural(r.chunks, 'chunk')}, ${f.bytes(r.chunks * s.kv.chunk_bytes)}, ${f.plural(r.length_tokens, 'token')}`
      : pointed === CACHED ? 'Cached: prefixes that finished requests left behind'
        : pointed === SHARED ? 'Shared: one prefix that several running requests read' : 'Free');
  }

  function point(owner: number | null): void {
    pointed = owner;
    pointedId = owner != null && owner >= 0 ? state?.running[owner]?.id ?? null : null;
    describe();
    draw();
  }

  canvas.addEventListener('pointermove', (e) => {
    const i = Math.floor(e.offsetY / grid.h) * grid.cols + Math.floor(e.offsetX / grid.w);
    const o = e.offsetX < grid.cols * grid.w && i < owners.length ? owners[i] : null;
    if (o !== pointed) point(o);
  });
  canvas.addEventListener('pointerleave', () => point(null));
  new ResizeObserver(draw).observe(box);

  return {
    draw,
    pointAt(id: string | null) {
      const i = state?.running.findIndex((r) => r.id === id) ?? -1;
      point(i < 0 ? null : i);
    },
    update(s: State) {
      state = s;
      unpack(s);
      if (pointedId != null) { // indices move as requests come and go
        const i = s.running.findIndex((r) => r.id === pointedId);
        pointed = i < 0 ? null : i;
        if (i < 0) pointedId = null;
      }
      const k = s.kv.chunks, use = s.kv.chunk_bytes;
      text($('kv-sum'), `${f.bytes(k.active * use)} of ${f.bytes(k.total * use)} in use`);
      canvas.setAttribute('aria-label', `KV chunks: ${k.active} in use, ${k.cached} cached, ${k.free} free`);
      const legend = $('kv-legend');
      if (!legend.children.length) {
        for (const [name, color] of [['in use', '--c-weights'], ['shared', '--soft'], ['cached', '--cached'], ['free', '--line']])
          legend.append(el('li', null, el('i', { class: 'swatch', vars: { '--c': `var(${color})` } }), el('span', null, name)));
      }
      const shared = owners.reduce((a, o) => a + (o === SHARED ? 1 : 0), 0) * s.kv.map.chunks_per_cell;
      const counts = [`in use ${f.count(k.active)}`, `shared ${shared ? '≈ ' : ''}${f.count(shared)}`, `cached ${f.count(k.cached)}`, `free ${f.count(k.free)}`];
      counts.forEach((t, i) => text(legend.children[i].lastElementChild as Element, t));
      describe();
      draw();
    },
  };
}
