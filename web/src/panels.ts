// The figures, the queue, the pressure ladder, hit rates, requests and cost.
import { ENDED, type Request, type State, type Usage } from './api';
import { $, attr, el, keyed, text } from './dom';
import { refusal, waits } from './explain';
import * as f from './format';
import { colorOf } from './kvmap';

/* ---- Figures ---- */

interface Figure {
  name: string;
  color?: string;
  value: (s: State) => f.Text;
  more: (s: State) => string;
  meter?: (s: State) => number | null;
}

// "6.4 of 21 GB/s": both in the unit of the second.
function of(x: number | null, max: number | null, unit: string): string {
  const [v, u] = f.si(max, unit);
  const scale = max && Number(v) ? max / Number(v) : 1;
  return `${x == null ? f.NONE : (x / scale).toPrecision(3).replace(/e.*/, '')} of ${f.join([v, u])}`;
}

const figures: Figure[] = [
  { name: 'Memory bandwidth', color: '--bandwidth', value: (s) => f.percent(s.bandwidth.utilisation), meter: (s) => s.bandwidth.utilisation,
    more: (s) => of(s.bandwidth.current_bytes_per_s, s.bandwidth.peak_bytes_per_s, 'B/s') },
  { name: 'Compute', color: '--compute', value: (s) => f.percent(s.compute.utilisation), meter: (s) => s.compute.utilisation,
    more: (s) => of(s.compute.current_flops_per_s, s.compute.peak_flops_per_s, 'FLOP/s') },
  { name: 'Tokens out', value: (s) => f.si(s.steps.output_tokens_per_s, '/s'), more: (s) => `${f.join(f.si(s.steps.prompt_tokens_per_s, '/s'))} prompt tokens` },
  { name: 'Requests', value: (s) => [f.count(s.running.length), 'running'], more: (s) => `${f.count(s.queue.length)} queued` },
  { name: 'First token', value: (s) => f.duration(s.latency.ttft_p50_s), more: (s) => `p95 ${f.secs(s.latency.ttft_p95_s)}` },
  { name: 'Between tokens', value: (s) => f.duration(s.latency.itl_p50_s), more: (s) => `p95 ${f.secs(s.latency.itl_p95_s)}` },
  { name: 'KV pool', color: '--c-kv', value: (s) => f.percent(s.kv.chunks.active / Math.max(1, s.kv.chunks.total)),
    meter: (s) => s.kv.chunks.active / Math.max(1, s.kv.chunks.total), more: (s) => `${f.pct(s.kv.chunks.cached / Math.max(1, s.kv.chunks.total))} cached` },
  { name: 'Prediction error', value: (s) => f.percent(s.prediction.abs_error_p50), more: (s) => `p90 ${f.pct(s.prediction.abs_error_p90)}` },
];

// Without a state: the places that the figures will take, so that nothing moves when they come.
export function renderFigures(s: State | null): void {
  keyed($('figures'), figures, (x) => x.name, (x) => el('div', { class: 'figure' },
    el('div', { class: 'name' }, x.color && el('i', { vars: { '--c': `var(${x.color})` } }), x.name),
    el('b', null, el('span', null), el('small', null)),
    el('div', { class: 'meter', vars: { '--c': `var(${x.color ?? '--line'})` } }, x.meter && el('i', null)),
    el('div', { class: 'more' })),
  (e, x) => {
    const [, value, meter, more] = Array.from(e.children) as HTMLElement[];
    if (!s) {
      text(value.children[0], f.NONE);
      return;
    }
    const [v, u] = x.value(s);
    text(value.children[0], v);
    text(value.children[1], u);
    meter.style.setProperty('--v', String(Math.min(1, Math.max(0, x.meter?.(s) ?? 0))));
    text(more, x.more(s));
    attr(more, 'title', x.more(s));
  });
}

/* ---- Queue and pressure ---- */

const words = (name: string) => name.replace(/[-_]/g, ' ');

function renderQueue(s: State): void {
  const q = s.queue;
  text($('queue-sum'), q.length ? `${f.plural(q.length, 'request')}, the first for ${f.secs(q.head_waited_s)}` : 'nobody waits');
  const reasons = new Map<string, { n: number; longest: number }>();
  for (const r of q.requests) {
    const at = reasons.get(r.reason) ?? { n: 0, longest: 0 };
    reasons.set(r.reason, { n: at.n + 1, longest: Math.max(at.longest, r.waited_s) });
  }
  const body = $('queue-body');
  if (!body.children.length) body.append(el('div', { class: 'bars' }), el('p', { class: 'soft' }));
  keyed(body.children[0] as HTMLElement, [...reasons], ([why]) => why,
    () => el('div', { class: 'bar' }, el('span', null), el('span', { class: 'soft' }), el('div', { class: 'meter', vars: { '--c': 'var(--c-kvw)' } }, el('i', null))),
    (e, [why, at]) => {
      text(e.children[0], `${at.n} wait ${waits(why)}`);
      text(e.children[1], `up to ${f.secs(at.longest)}`);
      (e.children[2] as HTMLElement).style.setProperty('--v', String(at.n / Math.max(1, q.requests.length)));
    });
  const note = body.children[1] as HTMLElement;
  text(note, q.length ? '' : `At most ${f.count(s.policy.max_running)} run and ${f.count(s.policy.max_queued)} wait; policy ${s.policy.name}.`);
}

function renderPressure(s: State): void {
  const { level, levels } = s.pressure;
  const spent = s.pressure.level_s ?? [], all = spent.reduce((a, b) => a + b, 0);
  text($('pressure-sum'), level > 0 ? `${words(levels[level])}${s.pressure.cause ? `, ${words(s.pressure.cause)}` : ''}` : 'none');
  const ladder = $('ladder');
  keyed(ladder, levels.map((name, i) => ({ name, i })), (l) => l.name, (l) => el('li', null, el('span', null, words(l.name)), el('span', null)), (e, l) => {
    text(e.children[1], all > 0 ? f.pct(spent[l.i] / all) : '');
    attr(e, 'data-on', l.i === level ? (level ? 'now' : 'calm') : l.i < level && l.i > 0 ? 'past' : '');
    if (l.i === level) attr(e, 'aria-current', 'step');
    else e.removeAttribute('aria-current');
  });
}

/* ---- Hits and misses ---- */

// Memory held for conversations that will probably go on.
function reserved(s: State): [name: string, value: string, meter: number | null][] {
  const r = s.pressure.reservations;
  if (!r?.limit_bytes) return [];
  const made = r.kept + r.expired + r.revoked;
  return [['Reserved for next turns', `${f.bytes(r.speculative_bytes)} of ${f.bytes(r.limit_bytes)}`, r.limit_bytes ? r.speculative_bytes / r.limit_bytes : 0],
    ['Of these were used', f.pct(made ? r.kept / made : null), null]];
}

function renderHits(s: State): void {
  const k = s.kv, r = s.requests;
  const rows: [name: string, value: string, meter: number | null][] = [
    ['Prefix cache, tokens hit', f.pct(k.prefix.hit_rate), k.prefix.hit_rate ?? 0],
    ['KV reads that were useful', f.pct(k.access_efficiency), k.access_efficiency ?? 0],
    ['Room in use holding tokens', f.pct(k.fragmentation == null ? null : 1 - k.fragmentation), k.fragmentation == null ? 0 : 1 - k.fragmentation],
    ...k.tiers.slice(1).map((t): [string, string, number | null] => [`Tier ${t.name}`, f.bytes(t.used_bytes), t.used_bytes / Math.max(1, t.capacity_bytes)]),
    ...(k.prefetch ? Object.entries(k.prefetch).map(([n, v]): [string, string, number | null] => [`Prefetch, ${n.replace(/_/g, ' ')}`, f.count(v), null]) : []),
    ...reserved(s),
    ['Prediction, mean error', f.pct(s.prediction.mean_error), null],
    ['Evicted chunks', f.count(Object.values(k.evicted).reduce((a, b) => a + b, 0)), null],
    ['Preemptions', f.count(r.preemptions), null],
    ['Tokens computed again', f.count(r.recomputed_tokens), null],
  ];
  const dl = $('hits');
  const want = rows.map((x) => x[0]).join('|');
  if (dl.dataset.rows !== want) {
    dl.dataset.rows = want;
    dl.replaceChildren(...rows.flatMap(([name, , meter]) => [el('dt', null, name), el('dd', null),
      ...(meter == null ? [] : [el('div', { class: 'meter' }, el('i', null))])]));
  }
  let at = 0;
  for (const [, value, meter] of rows) {
    text(dl.children[at + 1], value);
    at += 2;
    if (meter != null) (dl.children[at++] as HTMLElement).style.setProperty('--v', String(Math.min(1, meter)));
  }
}

/* ---- Server ---- */

function renderServer(s: State): void {
  const r = s.requests, b = s.bandwidth, p = s.policy;
  const why = Object.entries(r.refused_by).filter(([, n]) => n).map(([k, n]) => `${n} ${k.replace(/_/g, ' ')}`).join(', ');
  const rows: [string, string][] = [
    ['Finished', f.count(r.finished)], ['Refused', f.count(r.refused) + (why ? ` (${why})` : '')],
    ['Cancelled, failed', `${f.count(r.cancelled)}, ${f.count(r.failed)}`],
    ['Policy', p.name], ['Inter-token target', f.secs(p.itl_target_s)], ['First-token limit', p.ttft_limit_s ? f.secs(p.ttft_limit_s) : 'none'],
    ['Sustained bandwidth', f.rate(b.sustained_bytes_per_s)], ['Bytes are', b.source],
    ['Memory controllers', b.hardware ? `${f.rate(b.hardware.current_bytes_per_s)}, ${b.hardware.source}` : 'not readable here'],
    ['Arithmetic per byte', f.join(f.si(s.compute.intensity_flops_per_byte, 'FLOP/B'))],
    ['KV of a token', f.bytes(s.model.kv_token_bytes)], ['Up', f.secs(s.uptime_s)],
  ];
  text($('server-sum'), `weir ${s.version}`);
  const dl = $('server-facts');
  if (!dl.children.length) dl.append(...rows.flatMap(([name]) => [el('dt', null, name), el('dd', null)]));
  rows.forEach(([, value], i) => text(dl.children[2 * i + 1], value));
}

/* ---- Requests ---- */

interface Row {
  id: string; phase: string; key: string; age: string; length: string; share: number; cached: string; perToken: string; moved: string; note: string; done: boolean;
}

const columns: [name: string, cls: string][] = [['request', 'l'], ['phase', 'l'], ['key', 'l'], ['age', ''], ['length', ''], ['', 'wide'],
  ['cached', ''], ['bytes/token', ''], ['moved', ''], ['', 'l']];

function liveRows(s: State): Row[] {
  return [
    ...s.running.map((r): Row => ({
      id: r.id, phase: r.phase, key: r.key, age: f.secs(r.age_s), length: `${f.count(r.length_tokens)} of ${f.count(r.max_tokens)}`,
      share: r.length_tokens / Math.max(1, r.max_tokens), cached: f.count(r.cached_tokens), perToken: f.bytes(r.bytes_per_token),
      moved: f.bytes(r.memory_bytes), note: r.preemptions ? f.plural(r.preemptions, 'preemption') : '', done: false,
    })),
    ...s.queue.requests.map((q): Row => ({
      id: q.id, phase: q.preempted ? 'preempted' : 'queued', key: q.key, age: f.secs(q.waited_s), length: f.count(q.prompt_tokens), share: 0,
      cached: '', perToken: '', moved: '', note: `waits ${waits(q.reason)}`, done: false,
    })),
  ];
}

function endedRows(list: Request[]): Row[] {
  return list.filter((r) => ENDED.includes(r.state)).map((r): Row => ({
    id: r.id, phase: r.reason ? `${r.state}, ${refusal(r.reason)}` : r.state, key: r.key, age: f.secs(r.total_s),
    length: f.count(r.prompt_tokens + r.output_tokens), share: 0, cached: f.count(r.cached_tokens),
    perToken: r.output_tokens ? f.bytes(r.memory_bytes / r.output_tokens) : '', moved: f.bytes(r.memory_bytes),
    note: r.ttft_s == null ? '' : `first token after ${f.secs(r.ttft_s)}`, done: true,
  }));
}

export function renderRequests(s: State, ended: Request[] | null, open: (id: string) => void, point: (id: string | null) => void): void {
  const table = $<HTMLTableElement>('table');
  if (!table.tHead) {
    table.append(el('thead', null, el('tr', null, ...columns.map(([name, cls]) => el('th', { class: cls, scope: 'col' }, name)))), el('tbody', null));
  }
  const rows = ended ? endedRows(ended) : liveRows(s);
  text($('requests-sum'), ended ? `the last ${rows.length} that ended` : `${f.count(s.running.length)} running, ${f.count(s.queue.length)} queued`);
  keyed(table.tBodies[0], rows, (r) => r.id, (r) => {
    const tr = el('tr', { class: 'open' }, ...columns.map(([, cls]) => el('td', { class: cls })));
    tr.children[0].append(el('button', { class: 'link', title: 'Its timeline' }, el('i', { class: 'swatch' }), el('span', { class: 'mono' }, shortId(r.id))));
    tr.children[5].append(el('div', { class: 'meter' }, el('i', null)));
    tr.addEventListener('click', () => open(r.id));
    tr.addEventListener('pointerenter', () => point(r.id));
    tr.addEventListener('pointerleave', () => point(null));
    return tr;
  }, (e, r) => {
    const td = e.children as HTMLCollectionOf<HTMLElement>;
    const waiting = r.phase === 'queued' || r.phase === 'preempted';
    const color = r.done ? 'var(--line)' : waiting ? 'transparent' : colorOf(r.id);
    (td[0].querySelector('i') as HTMLElement).style.setProperty('--c', color);
    [r.phase, r.key, r.age, r.length].forEach((t, i) => text(td[i + 1], t));
    const meter = td[5].firstElementChild as HTMLElement;
    meter.style.setProperty('--v', String(Math.min(1, r.share)));
    meter.style.setProperty('--c', color);
    meter.style.visibility = r.done || waiting ? 'hidden' : 'visible';
    [r.cached, r.perToken, r.moved, r.note].forEach((t, i) => text(td[i + 6], t));
    e.classList.toggle('done', r.done || waiting);
  });
  let empty = table.parentElement?.querySelector('.empty');
  if (!empty) table.after(empty = el('p', { class: 'empty' }));
  (empty as HTMLElement).hidden = rows.length > 0;
  text(empty, ended ? 'Nothing has ended yet.' : 'Nothing runs. “Try it” sends a prompt.');
}

export function shortId(id: string): string {
  return id.length > 22 ? `${id.slice(0, 13)}…${id.slice(-6)}` : id;
}

/* ---- Cost ---- */

export function renderCost(s: State, usage: Usage | null): void {
  const c = s.cost;
  const money = (x: number | null) => (x == null || !c ? f.NONE : `${x < 0.1 && x > 0 ? x.toPrecision(2) : x.toFixed(2)}\u202f${c.currency}`);
  text($('cost-sum'), c ? `${money(c.money_per_hour)} an hour, ${money(c.money_per_million_tokens)} a million tokens` : 'in bandwidth; --price-per-bandwidth-hour gives money');
  const table = $<HTMLTableElement>('cost-table');
  if (!table.tHead) {
    table.append(el('thead', null, el('tr', null, ...[['key', 'l'], ['requests', ''], ['tokens', ''], ['moved', ''], ['bandwidth', ''], [c ? c.currency : 'cost', '']]
      .map(([n, cls]) => el('th', { class: cls, scope: 'col' }, n)))), el('tbody', null));
  }
  const rows = [...usage?.data ?? []].sort((a, b) => b.bandwidth_hours - a.bandwidth_hours);
  keyed(table.tBodies[0], rows, (r) => r.key, () => el('tr', null, ...Array.from({ length: 6 }, (_x, i) => el('td', { class: i ? '' : 'l' }))), (e, r) => {
    [r.key || 'no key', f.count(r.requests), f.count(r.prompt_tokens + r.output_tokens), f.bytes(r.memory_bytes), f.secs(r.bandwidth_hours * 3600), r.money == null ? f.NONE : r.money < 0.1 && r.money > 0 ? r.money.toPrecision(2) : r.money.toFixed(2)]
      .forEach((t, i) => text(e.children[i], t));
  });
  let empty = table.parentElement?.querySelector('.empty');
  if (!empty) table.after(empty = el('p', { class: 'empty' }, 'Nobody has used anything yet.'));
  (empty as HTMLElement).hidden = rows.length > 0;
}

export function renderPanels(s: State): void {
  renderFigures(s);
  renderQueue(s);
  renderPressure(s);
  renderHits(s);
  renderServer(s);
}
