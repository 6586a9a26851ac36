// Why a moment was fast or slow: what its steps moved, and the causes that the numbers show.
import { el } from './dom';
import * as f from './format';
import { CLASSES, type Detail, type History } from './history';

export interface Cause { color: string; text: string }
export interface Explanation { verdict: string; causes: Cause[] }

const SLOW = 1.6; // times the usual step
const WRONG = 1.5; // times the prediction

const WAITS: Record<string, string> = {
  step: 'for the running step to end',
  slots: 'for a slot: --max-running sequences run',
  kv: 'for KV memory',
  bandwidth: 'for bandwidth: one more would pass the limit at the predicted peak',
  prefill: 'for earlier prompts, which fill the step',
};
const REFUSALS: Record<string, string> = {
  queue_full: 'the queue is full',
  late: 'the first token would come too late',
  too_long: 'longer than the context',
  never_fits: 'larger than the KV pool',
  memory: 'no KV memory was left under pressure',
};
// A newer server may know more reasons.
export const waits = (why: string): string => WAITS[why] ?? `for ${why.replace(/[-_]/g, ' ')}`;
export const refusal = (why: string): string => REFUSALS[why] ?? why.replace(/[-_]/g, ' ');

function stepCauses(d: Detail, usual: number | null, add: (color: string, text: string) => void): string | null {
  const s = d.slowest;
  if (!s) return null;
  const slow = usual != null && s.seconds > SLOW * usual;
  const surprise = s.predicted_s > 0 && s.seconds > WRONG * s.predicted_s;
  const took = `The slowest step took ${f.secs(s.seconds)}`;
  if (s.prefill_rows && s.decode_rows && (slow || s.prefill_rows > 4 * s.decode_rows)) {
    add('--c-weights', `A prompt’s ${f.plural(s.prefill_rows, 'token')} were computed beside ${f.plural(s.decode_rows, 'decoding sequence')}, whose next tokens came with that step.`);
  } else if (s.prefill_rows && !s.decode_rows) {
    add('--c-weights', `Only prompts: ${f.plural(s.prefill_rows, 'token')} of ${f.plural(s.prefill_sequences, 'sequence')}. Nobody was decoding.`);
  }
  if (surprise) {
    add('--bad', `It took ${+(s.seconds / s.predicted_s).toPrecision(2)} times what its bytes and operations explain (${f.secs(s.predicted_s)}): the machine was busy elsewhere, or slower than it was.`);
  }
  if (s.preempted) add('--warn', `${f.plural(s.preempted, 'sequence')} preempted for it.`);
  if (s.copies) add('--c-move', `${f.plural(s.copies, 'chunk')} copied before it.`);
  if (s.failed) add('--bad', 'The device failed in it.');
  const vs = usual != null && slow ? `, usually ${f.secs(usual)}` : s.predicted_s > 0 ? `, predicted ${f.secs(s.predicted_s)}` : '';
  return `${took}${vs}: ${s.decode_rows} decoding${s.prefill_rows ? ` and ${f.plural(s.prefill_rows, 'prompt token')}` : ''}.`;
}

function byteCauses(h: History, i: number, add: (color: string, text: string) => void): void {
  const moved = h.bytes.slice(0, 4).reduce((a, c) => a + c[i], 0);
  if (!moved) return;
  const weights = h.bytes[0][i] / moved, kv = h.bytes[1][i] / moved;
  const bandwidth = h.bandwidth[i] ?? 0, compute = h.compute[i] ?? 0;
  if (kv > 0.5) add('--c-kv', `Reading KV is ${f.pct(kv)} of the traffic: long contexts, not the weights, set the pace.`);
  else if (weights > 0.85 && h.running[i] > 0 && h.running[i] <= 4)
    add('--c-weights', `Weights are ${f.pct(weights)} of the traffic for ${f.plural(h.running[i], 'sequence')}: more of them would come nearly free.`);
  if (compute > 0.7 && compute > bandwidth) add('--compute', `Arithmetic is the limit (${f.pct(compute)}), not memory (${f.pct(bandwidth)}).`);
  else if (h.limit != null && bandwidth > h.limit) add('--bandwidth', `Memory is the limit: ${f.pct(bandwidth)} of the measured bandwidth.`);
}

export function explain(h: History, i: number): Explanation {
  const causes: Cause[] = [];
  const add = (color: string, text: string) => causes.push({ color, text });
  const d = h.detail[i];
  const usual = h.usualStepS(h.t[i] - 120, h.t[i]); // of before: so that what was said stays said
  let verdict = d && stepCauses(d, usual, add);
  byteCauses(h, i, add);
  if (d) {
    if (h.queued[i]) {
      const why = d.blockedBy ? waits(d.blockedBy) : 'to be scheduled';
      add('--c-kvw', `${f.plural(h.queued[i], 'request')} waited ${why}${d.headWaitedS ? `, the first for ${f.secs(d.headWaitedS)}` : ''}.`);
    }
    if (d.preemptions) add('--warn', `${f.plural(d.preemptions, 'preemption')}${d.recomputed ? `; ${f.plural(d.recomputed, 'token')} computed again` : ''}.`);
    if (d.evicted) add('--cached', `${f.plural(d.evicted, 'cached chunk')} given up for new ones.`);
    for (const [why, n] of Object.entries(d.refused)) add('--bad', `${f.plural(n, 'request')} refused: ${refusal(why)}.`);
    if (d.pressure) add('--warn', `Memory pressure: ${d.pressure}.`);
  }
  if (!verdict) {
    const moved = h.bytes.reduce((a, c) => a + c[i], 0);
    verdict = moved ? `${f.plural(h.running[i], 'sequence')} running at ${f.pct(h.bandwidth[i])} of the bandwidth.` : 'Nothing ran.';
  }
  return { verdict, causes };
}

const row = (color: string | null, name: string, value: string, sum = false) => [
  el('dt', { class: sum ? 'sum' : null }, color && el('i', { class: 'swatch', vars: { '--c': `var(${color})` } }), name),
  el('dd', { class: sum ? 'sum' : null }, value),
];

// mode: what the panel's title says of the moment. One that is shown already stays: with it the
// button under the pointer or the focus, and text that is selected.
export function renderExplain(root: HTMLElement, h: History, i: number, mode: 'now' | 'pointed' | 'kept', release: () => void): void {
  const shown = `${mode} ${h.t[i]}`;
  if (root.dataset.shown === shown) return;
  root.dataset.shown = shown;
  const { verdict, causes } = explain(h, i);
  const d = h.detail[i], s = d?.slowest;
  const parts = CLASSES.map((c, k) => ({ ...c, v: s ? s.bytes[c.name] : h.bytes[k][i] }));
  const total = parts.reduce((a, p) => a + p.v, 0);
  const unit = s ? f.bytes : f.rate;
  root.replaceChildren(
    el('h3', null, mode === 'now' ? 'Now' : `At ${f.clock(h.t[i])}`,
      mode === 'kept' ? el('button', { onclick: release, title: 'Back to now (Esc)' }, 'Back to now') : el('span', null, mode === 'now' ? f.clock(h.t[i]) : 'click to keep')),
    el('p', { class: 'verdict' }, verdict),
    el('div', { class: 'stack', role: 'img', 'aria-label': parts.map((p) => `${p.label} ${unit(p.v)}`).join(', ') },
      ...parts.filter((p) => p.v > 0).map((p) => el('i', { vars: { '--c': `var(${p.color})`, '--v': String(p.v) } }))),
    el('dl', { class: 'facts' },
      ...parts.flatMap((p) => row(p.color, p.label, unit(p.v))),
      ...row(null, s ? 'moved by the slowest step' : 'moved', unit(total), true),
      ...(s && s.seconds > 0 ? row(null, 'at', f.rate((total - s.bytes.activations) / s.seconds)) : []),
      ...row(null, 'bandwidth, compute', `${f.pct(h.bandwidth[i])}, ${f.pct(h.compute[i])}`),
      ...(d ? [
        ...row(null, 'steps', `${f.join(f.si(d.stepsPerS, '/s'))}, ${f.pct(d.busy)} busy`),
        ...row(null, 'tokens out, in', `${f.join(f.si(d.outputPerS, '/s'))}, ${f.join(f.si(d.promptPerS, '/s'))}`),
      ] : [])),
    el('ul', { class: 'causes' }, ...causes.map((c) => el('li', { vars: { '--c': `var(${c.color})` } }, c.text))),
    d?.top.length ? el('dl', { class: 'facts' }, ...row(null, 'most bytes a token', ''),
      ...d.top.slice(0, 3).flatMap((t) => row(null, `${t.id.slice(0, 18)} · ${f.plural(t.length, 'token')}`, f.bytes(t.bytesPerToken)))) : '',
  );
}
