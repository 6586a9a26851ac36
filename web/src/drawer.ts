// The side panel: a request's timeline, or a prompt box.
import { ApiError, call, ENDED, events, get, type Phase, type Request } from './api';
import { $, el, text } from './dom';
import { refusal, waits } from './explain';
import * as f from './format';
import { CLASSES } from './history';

const PHASES: Record<string, { color: string; label: string }> = {
  preparing: { color: '--rule', label: 'prepared' },
  queued: { color: '--c-kvw', label: 'queued' },
  prefill: { color: '--c-weights', label: 'prefill' },
  decode: { color: '--c-act', label: 'decode' },
  preempted: { color: '--c-kv', label: 'preempted' },
  stalled: { color: '--rule', label: 'stalled' },
  tier: { color: '--c-move', label: 'waited on a tier' },
};

let openers: (HTMLElement | null | undefined)[] = []; // and what holds it: a request's row may be gone by then
let onClosed: (() => void) | null = null;

export function openDrawer(title: string, body: HTMLElement, closed: () => void): void {
  const drawer = $('drawer');
  onClosed?.();
  onClosed = closed;
  if (drawer.hidden) {
    const opener = document.activeElement as HTMLElement | null;
    openers = [opener, opener?.parentElement?.closest<HTMLElement>('[tabindex]')];
  }
  drawer.hidden = false;
  text($('drawer-title'), title);
  $('drawer-body').replaceChildren(body);
  (body.querySelector<HTMLElement>('[data-focus]') ?? $('drawer-close')).focus();
}

export function closeDrawer(): void {
  if ($('drawer').hidden) return;
  $('drawer').hidden = true;
  onClosed?.();
  onClosed = null;
  $('drawer-body').replaceChildren();
  (openers.find((e) => e?.isConnected) ?? $('main')).focus();
}

/* ---- Timeline of a request ---- */

function lane(phases: Phase[], end: number, name: string): HTMLElement {
  return el('div', { class: 'lane' },
    el('div', { class: 'track', role: 'img', 'aria-label': `${name}: ${phases.map((p) => `${PHASES[p.phase]?.label ?? p.phase} ${f.secs((p.end_s ?? end) - p.begin_s)}`).join(', ')}` },
      ...phases.map((p) => el('i', {
        title: `${PHASES[p.phase]?.label ?? p.phase} ${f.secs((p.end_s ?? end) - p.begin_s)}`,
        vars: { '--a': String(p.begin_s / end), '--w': String(((p.end_s ?? end) - p.begin_s) / end), '--c': `var(${PHASES[p.phase]?.color ?? '--rule'})` },
      }))),
    el('div', { class: 'ends' }, el('span', null, '0'), el('span', null, f.secs(end))));
}

function phaseTable(phases: Phase[], end: number): HTMLElement {
  const num = (t: string) => el('td', null, t);
  return el('table', null,
    el('thead', null, el('tr', null, ...[['phase', 'l'], ['from', ''], ['took', ''], ['tokens', ''], ['moved', '']].map(([n, cls]) => el('th', { class: cls, scope: 'col' }, n)))),
    el('tbody', null, ...phases.map((p) => el('tr', null,
      el('td', { class: 'l' }, el('i', { class: 'swatch', vars: { '--c': `var(${PHASES[p.phase]?.color ?? '--rule'})` } }), ` ${PHASES[p.phase]?.label ?? p.phase}`),
      num(f.secs(p.begin_s)), num(f.secs((p.end_s ?? end) - p.begin_s)), num(p.tokens ? f.count(p.tokens) : ''), num(p.bytes ? f.bytes(p.bytes) : '')))));
}

// The longest part of its life, in a sentence.
function why(r: Request): string {
  const parts = Object.entries(r.time).filter(([, v]) => v > 0).sort((a, b) => b[1] - a[1]);
  if (!parts.length) return '';
  const [name, s] = parts[0];
  const total = parts.reduce((a, p) => a + p[1], 0);
  const what: Record<string, string> = {
    prepare_s: 'being parsed and tokenised', queued_s: 'waiting in the queue', prefill_s: 'computing its prompt', decode_s: 'generating',
    preempted_s: 'preempted', stalled_s: 'left out of steps', tier_s: 'waiting for its memory from another tier',
  };
  const reasons = Object.entries(r.queued_for).sort((a, b) => b[1] - a[1]);
  const because = name === 'queued_s' && reasons.length ? `, most of it ${waits(reasons[0][0])}` : '';
  return `${f.pct(s / total)} of its ${f.secs(total)} went into ${what[name] ?? name.replace(/_s$/, '')}${because}.`;
}

function requestBody(r: Request): HTMLElement {
  const ends = (r.choices ?? []).flatMap((c) => c.timeline.map((p) => p.end_s ?? p.begin_s));
  const end = Math.max(1e-4, r.total_s ?? 0, ...ends);
  const fact = (name: string, value: string | null | undefined, color?: string) => (value == null ? []
    : [el('dt', null, color && el('i', { class: 'swatch', vars: { '--c': `var(${color})` } }), name), el('dd', null, value)]);
  return el('div', null,
    el('p', null, `${r.state}${r.reason ? `, ${refusal(r.reason)}` : ''}. `, why(r)),
    ...(r.choices ?? []).flatMap((c) => [
      el('h3', null, (r.choices as unknown[]).length > 1 ? `Choice ${c.index}` : 'Timeline'), lane(c.timeline, end, `choice ${c.index}`), phaseTable(c.timeline, end)]),
    el('h3', null, 'Bytes moved'),
    el('dl', { class: 'facts' },
      ...CLASSES.filter((c) => r.bytes[c.name] > 0).flatMap((c) => fact(c.label, f.bytes(r.bytes[c.name]), c.color)),
      ...fact('memory traffic', f.bytes(r.memory_bytes)),
      ...fact('a token', r.output_tokens ? f.bytes(r.memory_bytes / r.output_tokens) : null),
      ...fact('of the whole bandwidth', f.secs(r.bandwidth_s)), ...fact('share of step time', f.secs(r.device_s)),
      ...fact('arithmetic', f.join(f.si(r.flops, 'FLOP'))), ...fact('cost', r.money == null ? null : String(+r.money.toPrecision(3)))),
    el('h3', null, 'Request'),
    el('dl', { class: 'facts' },
      ...fact('arrived', f.clock(r.arrived_s)), ...fact('first token after', f.secs(r.ttft_s)),
      ...fact('prompt, of it cached', `${f.count(r.prompt_tokens)}, ${f.count(r.cached_tokens)}`), ...fact('output tokens', f.count(r.output_tokens)),
      ...fact('steps', f.count(r.steps)), ...fact('key', r.key || 'none'), ...fact('kind', `${r.kind}${r.stream ? ', streamed' : ''}`),
      ...fact('trace', r.trace_id)));
}

export function openRequest(id: string): void {
  const body = el('div', null, el('p', { class: 'soft' }, 'Loading'));
  let timer = 0, closed = false;
  const load = async () => {
    let r: Request | null = null;
    try {
      r = await get<Request>(`v1/weir/requests/${encodeURIComponent(id)}`);
    } catch (e) {
      if (!closed) body.replaceChildren(el('p', { class: 'bad' }, e instanceof ApiError ? e.message : 'No connection.'));
    }
    if (closed) return;
    if (r) body.replaceChildren(requestBody(r));
    if (!r || !ENDED.includes(r.state)) timer = window.setTimeout(load, 1000); // as long as it lives
  };
  openDrawer(id, body, () => {
    closed = true;
    clearTimeout(timer);
  });
  void load();
}

/* ---- Try it ---- */

interface Turn { role: 'user' | 'assistant'; content: string }
const talk: { turn: Turn; node: HTMLElement }[] = []; // outlives the panel

function note(node: HTMLElement, ...children: (Node | string)[]): void {
  let small = node.querySelector('small');
  if (!small) node.append(small = el('small', null));
  small.replaceChildren(...children);
}

// Streams one answer into `node`; returns its text.
async function answer(messages: Turn[], options: { maxTokens: number; temperature: number }, node: HTMLElement, signal: AbortSignal): Promise<string> {
  const began = performance.now();
  const out = document.createTextNode('');
  node.prepend(out);
  let first = 0, id = '', tokens = 0, usage: any = null;
  const r = await call('v1/chat/completions', {
    method: 'POST', signal, headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      messages, stream: true, stream_options: { include_usage: true }, weir: { usage: true },
      max_tokens: options.maxTokens, temperature: options.temperature,
    }),
  });
  for await (const e of events(r)) {
    if (e.data === '[DONE]') break;
    const chunk = JSON.parse(e.data);
    if (chunk.error) throw new ApiError(500, chunk.error.code, chunk.error.message, 0);
    id = chunk.id ?? id;
    usage = chunk.usage ?? usage;
    const delta = chunk.choices?.[0]?.delta?.content;
    if (typeof delta !== 'string') continue;
    tokens++;
    if (!first) first = performance.now();
    out.appendData(delta);
    const chat = node.parentElement;
    if (chat && chat.scrollHeight - chat.scrollTop - chat.clientHeight < 80) chat.scrollTop = chat.scrollHeight;
  }
  const n = usage?.completion_tokens ?? tokens, spent = (performance.now() - (first || began)) / 1000, w = usage?.weir;
  note(node, `${f.plural(n, 'token')}, first after ${f.secs(((first || performance.now()) - began) / 1000)}, then ${f.join(f.si(n > 1 && spent > 0 ? (n - 1) / spent : null, 'tokens/s'))}` +
    `${w && n ? `, ${f.bytes(w.memory_bytes / n)} a token` : ''}. `, el('button', { onclick: () => openRequest(id) }, 'Timeline'));
  return out.data;
}

export function openTry(): void {
  const chat = el('div', { class: 'chat', 'aria-live': 'polite' }, ...talk.map((t) => t.node));
  const box = el('textarea', { 'aria-label': 'Prompt', placeholder: 'Ask the model something', 'data-focus': true, maxlength: '100000' });
  const max = el('input', { type: 'number', min: '1', max: '100000', value: '256', 'aria-label': 'Most tokens' });
  const heat = el('input', { type: 'number', min: '0', max: '2', step: '0.1', value: '0.7', 'aria-label': 'Temperature' });
  const send = el('button', { class: 'primary' }, 'Send');
  let stop: AbortController | null = null;

  async function ask(): Promise<void> {
    if (stop) {
      stop.abort();
      return;
    }
    const prompt = box.value.trim();
    if (!prompt) return;
    box.value = '';
    const say = (role: Turn['role'], content: string) => {
      const t = { turn: { role, content }, node: el('div', { class: `msg ${role}` }, role === 'user' && content) };
      talk.push(t);
      chat.append(t.node);
      chat.scrollTop = chat.scrollHeight;
      return t;
    };
    say('user', prompt);
    const messages = talk.map((t) => t.turn);
    const reply = say('assistant', '');
    stop = new AbortController();
    text(send, 'Stop');
    try {
      reply.turn.content = await answer(messages, { maxTokens: max.valueAsNumber || 256, temperature: Number.isFinite(heat.valueAsNumber) ? heat.valueAsNumber : 0.7 }, reply.node, stop.signal);
    } catch (e) {
      reply.turn.content = reply.node.firstChild?.textContent ?? '';
      note(reply.node, el('span', { class: 'bad' }, stop.signal.aborted ? 'Stopped.' : e instanceof ApiError ? e.message : 'The connection broke.'));
      if (!reply.turn.content) { // nothing came: the next question must not follow an empty answer
        for (const t of talk.splice(talk.indexOf(reply) - 1, 2)) t.node.classList.add('soft');
        if (!box.value) box.value = prompt;
      }
    }
    stop = null;
    text(send, 'Send');
  }
  send.addEventListener('click', () => void ask());
  box.addEventListener('keydown', (e) => {
    if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) {
      e.preventDefault();
      void ask();
    }
  });
  const clear = el('button', { onclick: () => { talk.length = 0; chat.replaceChildren(); } }, 'Clear');
  const body = el('div', { vars: { display: 'contents' } }, chat,
    el('div', { class: 'ask' }, box, send, el('div', { class: 'opts' }, el('label', null, 'Most tokens', max), el('label', null, 'Temperature', heat), clear)));
  $('try').setAttribute('aria-expanded', 'true');
  openDrawer('Try the model', body, () => {
    stop?.abort();
    $('try').setAttribute('aria-expanded', 'false');
  });
  chat.scrollTop = chat.scrollHeight;
}
