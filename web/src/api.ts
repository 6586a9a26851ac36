// What the server says (docs/observability.md), as far as this page uses it, and how it is asked.

export interface Bytes { weights: number; kv_read: number; kv_write: number; tier: number; activations: number }
type Maybe = number | null;

export interface Step {
  step: number; time_s: number; seconds: number; predicted_s: number; sequences: number; rows: number;
  prefill_sequences: number; prefill_rows: number; decode_rows: number; copies: number; bytes: Bytes;
  predicted_bytes: number; flops: number; bandwidth_utilisation: Maybe; queued: number; preempted: number; failed: boolean;
}

export interface Running {
  id: string; key: string; phase: string; age_s: number; prompt_tokens: number; output_tokens: number;
  length_tokens: number; max_tokens: number; cached_tokens: number; chunks: number; preemptions: number;
  bytes_per_token: number; memory_bytes: number; bandwidth_s: number;
}

export interface Queued {
  id: string; key: string; waited_s: number; prompt_tokens: number; priority: number; reason: string; preempted: boolean;
}

interface Reservations { base_bytes: number; predicted_bytes: number; speculative_bytes: number; limit_bytes: number; kept: number; expired: number; revoked: number }

export interface Columns { interval_s: number; time_s: number[]; [name: string]: number | (number | null)[] }

export interface State {
  time_s: number; uptime_s: number; version: string; health: string; interval_s: number;
  model: { name: string; n_layers: number; context_tokens: number; weight_bytes: number; kv_token_bytes: number };
  policy: { name: string; itl_target_s: Maybe; ttft_limit_s: Maybe; bandwidth_limit: Maybe; max_running: number; max_queued: number };
  bandwidth: {
    source: string; peak_bytes_per_s: Maybe; peak_source: string; sustained_bytes_per_s: Maybe; current_bytes_per_s: Maybe; utilisation: Maybe;
    by_class_bytes_per_s: Bytes; total_bytes: Bytes; hardware: { source: string; current_bytes_per_s: Maybe } | null;
  };
  compute: { peak_flops_per_s: Maybe; current_flops_per_s: Maybe; utilisation: Maybe; intensity_flops_per_byte: Maybe };
  steps: {
    total: number; per_s: number; busy: number; rows_per_step: Maybe; last_s: Maybe; prompt_tokens_per_s: number;
    output_tokens_per_s: number; slowest?: Step | null;
  };
  prediction: { steps: number; abs_error_p50: Maybe; abs_error_p90: Maybe; mean_error: Maybe };
  requests: {
    submitted: number; finished: number; refused: number; cancelled: number; failed: number; preemptions: number;
    recomputed_tokens: number; refused_by: Record<string, number>;
  };
  kv: {
    chunk_tokens: number; chunk_bytes: number; chunks: { total: number; active: number; cached: number; free: number };
    used_tokens: number; fragmentation: Maybe; access_efficiency: Maybe;
    prefix: { query_tokens: number; hit_tokens: number; hit_rate: Maybe };
    tiers: { name: string; capacity_bytes: number; used_bytes: number; hit_tokens: number }[];
    evicted: Record<string, number>; prefetch: Record<string, number> | null;
    map: { chunks_per_cell: number; cells: [owner: number, cells: number][] };
  };
  pressure: { level: number; levels: string[]; level_s?: number[]; cause?: string; reservations: Reservations | null };
  running: Running[];
  queue: { length: number; blocked_by: string | null; head_waited_s: Maybe; requests: Queued[] };
  latency: { window_s: number; ttft_p50_s: Maybe; ttft_p95_s: Maybe; itl_p50_s: Maybe; itl_p95_s: Maybe };
  cost: {
    price_per_bandwidth_hour: number; currency: string; money_total: number; money_per_hour: Maybe; money_per_million_tokens: Maybe;
  } | null;
  history?: Columns;
}

export interface Phase { phase: string; reason?: string; begin_s: number; end_s: Maybe; tokens: number; bytes: number }

export interface Request {
  id: string; key: string; kind: string; state: string; reason: string | null; stream: boolean; trace_id?: string | null;
  arrived_s: number; total_s: Maybe; ttft_s: Maybe; prompt_tokens: number; cached_tokens: number; output_tokens: number;
  bytes: Bytes; memory_bytes: number; flops: number; bandwidth_s: number; device_s: number; steps: number; money: Maybe;
  time: Record<string, number>; queued_for: Record<string, number>;
  choices?: { index: number; state: string; reason: string | null; output_tokens: number; timeline: Phase[] }[];
}

export const ENDED = ['finished', 'refused', 'cancelled', 'failed'];

export interface Usage {
  price_per_bandwidth_hour: Maybe; currency: string | null;
  data: {
    key: string; requests: number; prompt_tokens: number; output_tokens: number; memory_bytes: number;
    bandwidth_hours: number; device_hours: number; money: Maybe;
  }[];
}

// The key lives as long as the tab, and goes out as a header only: never in an address.
const KEY = 'weir-api-key';
export const key = {
  get: (): string => sessionStorage.getItem(KEY) ?? '',
  set: (k: string): void => (k ? sessionStorage.setItem(KEY, k) : sessionStorage.removeItem(KEY)),
};

export class ApiError extends Error {
  constructor(readonly status: number, readonly code: string, message: string, readonly retryAfterS: number) {
    super(message);
  }
}

// Paths are relative, so that the page works behind a proxy's prefix too.
export async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.get()) headers.set('Authorization', `Bearer ${key.get()}`);
  const r = await fetch(path, { ...init, headers, cache: 'no-store', credentials: 'same-origin' });
  if (r.ok) return r;
  const body = await r.text();
  let code = '', message = `${r.status} ${r.statusText}`;
  try {
    const e = JSON.parse(body).error;
    code = String(e.code ?? '');
    message = String(e.message ?? message);
  } catch { /* not ours: the status says it */ }
  throw new ApiError(r.status, code, message, Number(r.headers.get('Retry-After')) || 0);
}

export const get = async <T>(path: string, signal?: AbortSignal): Promise<T> => (await call(path, { signal })).json();

// Server-Sent Events of an answer, one after the other.
export async function* events(r: Response): AsyncGenerator<{ name: string; data: string }> {
  const reader = (r.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  let pending = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      pending += decoder.decode(value, { stream: true });
      for (let end; (end = pending.search(/\r?\n\r?\n/)) >= 0;) {
        const block = pending.slice(0, end);
        pending = pending.slice(end).replace(/^\r?\n\r?\n/, '');
        let name = 'message';
        const data: string[] = [];
        for (const line of block.split(/\r?\n/)) {
          if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
          else if (line.startsWith('event:')) name = line.slice(6).trim();
        }
        if (data.length) yield { name, data: data.join('\n') };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
