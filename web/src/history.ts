// The last minutes, as columns: what the charts draw and what `explain` looks up.
import type { Bytes, State, Step } from './api';

export const CLASSES: { name: keyof Bytes; label: string; color: string }[] = [
  { name: 'weights', label: 'weights', color: '--c-weights' },
  { name: 'kv_read', label: 'KV read', color: '--c-kv' },
  { name: 'kv_write', label: 'KV write', color: '--c-kvw' },
  { name: 'tier', label: 'tier moves', color: '--c-move' },
  { name: 'activations', label: 'activations', color: '--c-act' },
];

// What a moment's explanation needs and no column holds. Moments from the server's own history have none.
export interface Detail {
  slowest: Step | null;
  busy: number;
  stepsPerS: number;
  outputPerS: number;
  promptPerS: number;
  blockedBy: string | null;
  headWaitedS: number | null;
  pressure: string | null; // level, if not the lowest
  preemptions: number; // since the moment before, like the rest
  recomputed: number;
  refused: Record<string, number>;
  evicted: number;
  top: { id: string; phase: string; length: number; bytesPerToken: number }[];
}

const KEEP_S = 660;
const GAP_S = 4;

export class History {
  t: number[] = [];
  gap: boolean[] = [];
  bandwidth: (number | null)[] = [];
  compute: (number | null)[] = [];
  bytes: number[][] = CLASSES.map(() => []);
  stepS: (number | null)[] = [];
  predictedS: (number | null)[] = [];
  running: number[] = [];
  queued: number[] = [];
  detail: (Detail | null)[] = [];
  limit: number | null = null;
  private last: State | null = null;

  get length(): number {
    return this.t.length;
  }

  get now(): number {
    return this.t.length ? this.t[this.t.length - 1] : 0;
  }

  // Index of the moment nearest to t.
  find(t: number): number {
    let lo = 0, hi = this.t.length - 1;
    while (lo < hi) {
      const mid = (lo + hi) >> 1;
      if (this.t[mid] < t) lo = mid + 1;
      else hi = mid;
    }
    return lo > 0 && t - this.t[lo - 1] < this.t[lo] - t ? lo - 1 : Math.max(lo, 0);
  }

  private row(t: number, gap: boolean): boolean {
    if (t <= this.now) return false;
    if (this.t.length && !gap && t - this.now > GAP_S) this.row(this.now + 0.001, true);
    this.t.push(t);
    this.gap.push(gap);
    const nothing: (number | null)[][] = [this.bandwidth, this.compute, this.stepS, this.predictedS];
    nothing.forEach((c) => c.push(null));
    this.bytes.forEach((c) => c.push(0));
    this.running.push(0);
    this.queued.push(0);
    this.detail.push(null);
    return true;
  }

  private trim(): void {
    const n = this.find(this.now - KEEP_S);
    if (n < 64) return; // not at every step
    const columns: unknown[][] = [this.t, this.gap, this.bandwidth, this.compute, ...this.bytes, this.stepS, this.predictedS,
      this.running, this.queued, this.detail];
    columns.forEach((c) => c.splice(0, n));
  }

  // A restarted server begins anew: its clock is the same, its counters are not.
  fill(s: State): void {
    if (this.last && s.uptime_s < this.last.uptime_s) this.last = null;
    const h = s.history;
    if (!h) return;
    const col = (name: string, i: number): number | null => (h[name] as (number | null)[] | undefined)?.[i] ?? null;
    for (let i = 0; i < h.time_s.length; i++) {
      if (h.time_s[i] <= this.now + 0.5 || !this.row(h.time_s[i], false)) continue;
      const at = this.t.length - 1;
      this.bandwidth[at] = col('bandwidth_utilisation', i);
      this.compute[at] = col('compute_utilisation', i);
      CLASSES.forEach((c, k) => { this.bytes[k][at] = col(`${c.name}_bytes_per_s`, i) ?? 0; });
      this.stepS[at] = col('slowest_step_s', i);
      this.predictedS[at] = col('slowest_step_predicted_s', i);
      this.running[at] = col('running', i) ?? 0;
      this.queued[at] = col('queued', i) ?? 0;
    }
    this.trim();
  }

  push(s: State): void {
    if (!this.row(s.time_s, false)) return;
    const at = this.t.length - 1;
    const before = this.last && s.uptime_s >= this.last.uptime_s ? this.last : null;
    const since = (now: number, then: number | undefined) => (before ? Math.max(0, now - (then ?? 0)) : 0);
    const slowest = s.steps.slowest ?? null;
    this.limit = s.policy.bandwidth_limit;
    this.bandwidth[at] = s.bandwidth.utilisation;
    this.compute[at] = s.compute.utilisation;
    CLASSES.forEach((c, k) => { this.bytes[k][at] = s.bandwidth.by_class_bytes_per_s[c.name] ?? 0; });
    this.stepS[at] = slowest ? slowest.seconds : null;
    this.predictedS[at] = slowest && slowest.predicted_s > 0 ? slowest.predicted_s : null;
    this.running[at] = s.running.length;
    this.queued[at] = s.queue.length;
    const refused: Record<string, number> = {};
    for (const [why, n] of Object.entries(s.requests.refused_by)) {
      const more = since(n, before?.requests.refused_by[why]);
      if (more) refused[why] = more;
    }
    const evicted = (x: State) => Object.values(x.kv.evicted).reduce((a, b) => a + b, 0);
    this.detail[at] = {
      slowest, busy: s.steps.busy, stepsPerS: s.steps.per_s, outputPerS: s.steps.output_tokens_per_s,
      promptPerS: s.steps.prompt_tokens_per_s, blockedBy: s.queue.blocked_by, headWaitedS: s.queue.head_waited_s,
      pressure: s.pressure.level > 0 ? s.pressure.levels[s.pressure.level] ?? `level ${s.pressure.level}` : null,
      preemptions: since(s.requests.preemptions, before?.requests.preemptions),
      recomputed: since(s.requests.recomputed_tokens, before?.requests.recomputed_tokens),
      refused, evicted: before ? Math.max(0, evicted(s) - evicted(before)) : 0,
      top: [...s.running].sort((a, b) => b.bytes_per_token - a.bytes_per_token).slice(0, 4).map((r) => (
        { id: r.id, phase: r.phase, length: r.length_tokens, bytesPerToken: r.bytes_per_token })),
    };
    this.last = s;
    this.trim();
  }

  // The usual step time in the span [from, to]: the median of what was slowest in each moment.
  usualStepS(from: number, to: number): number | null {
    const v: number[] = [];
    for (let i = this.find(from); i < this.t.length && this.t[i] <= to; i++) {
      const s = this.stepS[i];
      if (s != null) v.push(s);
    }
    v.sort((a, b) => a - b);
    return v.length >= 8 ? v[v.length >> 1] : null;
  }
}
