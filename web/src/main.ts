// The dashboard: one feed in, everything drawn from it.
import { get, type Request, type State, type Usage } from './api';
import { createCharts, type Charts } from './charts';
import { $, attr, el, text } from './dom';
import { closeDrawer, openRequest, openTry } from './drawer';
import { renderExplain, explain } from './explain';
import { createFeed, type Link } from './feed';
import * as f from './format';
import { History } from './history';
import { assignColors, createKvMap } from './kvmap';
import { renderCost, renderFigures, renderPanels, renderRequests } from './panels';
import { initTheme } from './theme';

const SPANS: [label: string, seconds: number][] = [['1 min', 60], ['3 min', 180], ['10 min', 600]];
const USAGE_EVERY_S = 10, ENDED_EVERY_S = 2;

const history = new History();
const kv = createKvMap();
let state: State | null = null;
let usage: Usage | null = null, usageAt = 0;
let ended: Request[] | null = null, showEnded = false, endedAt = 0;
let span = 180, spanChosen = false;
let pointed: number | null = null, kept: number | null = null;
let paused = false;
let charts: Charts | null = null;

/* ---- Time ---- */

function drawTime(): void {
  if (!charts || !history.length) return;
  charts.draw(history.now - span, history.now);
  drawExplain();
}

function drawExplain(): void {
  if (!history.length) return;
  const t = pointed ?? kept;
  const mode = pointed != null && pointed !== kept ? 'pointed' : kept != null ? 'kept' : 'now';
  const i = t == null ? history.length - 1 : history.find(t);
  const panel = $('explain'), slider = $('charts');
  const within = panel.contains(document.activeElement);
  renderExplain(panel, history, i, mode, () => keep(null));
  if (within && !panel.contains(document.activeElement)) slider.focus({ preventScroll: true });
  charts?.read(i);
  attr(slider, 'aria-valuemin', String(Math.round(history.now - span)));
  attr(slider, 'aria-valuemax', String(Math.round(history.now)));
  attr(slider, 'aria-valuenow', String(Math.round(history.t[i])));
  if (mode === 'kept') attr(slider, 'aria-valuetext', `${f.clock(history.t[i])}: ${explain(history, i).verdict}`);
  else slider.removeAttribute('aria-valuetext');
}

function keep(t: number | null): void {
  kept = t == null ? null : history.t[history.find(t)];
  pointed = null;
  charts?.mark(kept);
  drawExplain();
}

function initTime(): void {
  const root = $('charts');
  for (const [k, v] of Object.entries({ tabindex: '0', role: 'slider', 'aria-label': 'Moment: arrow keys move, Escape returns to now', 'aria-orientation': 'horizontal' })) attr(root, k, v);
  charts = createCharts(root, history, (t) => {
    pointed = t;
    drawExplain();
  }, (t) => keep(t));
  root.addEventListener('keydown', (e) => {
    const step: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, PageUp: 20, PageDown: -20 };
    if (!history.length) return;
    if (e.key in step) {
      const i = kept == null ? history.length - 1 : history.find(kept);
      keep(history.t[Math.min(history.length - 1, Math.max(0, i + step[e.key]))]);
    } else if (e.key === 'Home') keep(history.now - span);
    else if (e.key === 'End') keep(null);
    else return;
    e.preventDefault();
  });
  $('window').append(...SPANS.map(([label, s]) => el('button', {
    onclick: () => {
      spanChosen = true;
      show(s);
    },
  }, label)));
  show(span);
}

function show(seconds: number): void {
  span = seconds;
  SPANS.forEach(([, s], i) => attr($('window').children[i], 'aria-pressed', String(s === span)));
  drawTime();
}

/* ---- State ---- */

async function refreshSlow(): Promise<void> {
  const now = Date.now() / 1000;
  if (now - usageAt > (usage?.data.length ? USAGE_EVERY_S : ENDED_EVERY_S)) {
    usageAt = now;
    usage = await get<Usage>('v1/weir/usage?bucket=total').catch(() => usage);
    if (state) renderCost(state, usage);
  }
  if (showEnded && now - endedAt > ENDED_EVERY_S) {
    endedAt = now;
    ended = (await get<{ data: Request[] }>('v1/weir/requests?limit=100').catch(() => null))?.data ?? ended;
    drawRequests();
  }
}

function drawRequests(): void {
  if (state) renderRequests(state, showEnded ? ended ?? [] : null, openRequest, (id) => kv.pointAt(id));
}

function drawState(s: State): void {
  assignColors(s.running.map((r) => r.id));
  const m = s.model;
  text($('model'), `${m.name} · ${f.bytes(m.weight_bytes)} of weights · ${f.count(m.context_tokens)} tokens of context`);
  document.title = `${f.pct(s.bandwidth.utilisation)} · ${m.name} · weir`;
  text($('foot'), `weir ${s.version}, up ${f.secs(s.uptime_s)}, ${f.count(s.steps.total)} steps. Bandwidth: memory traffic, ${s.bandwidth.source}, over ${f.rate(s.bandwidth.peak_bytes_per_s)}, ${s.bandwidth.peak_source === 'configured' ? 'as configured' : 'measured at the start'}.`);
  renderPanels(s);
  kv.update(s);
  drawRequests();
  renderCost(s, usage);
}

function onState(s: State): void {
  state = s;
  history.push(s);
  drawTime();
  drawState(s);
  void refreshSlow();
}

const words: Record<Link, string> = { connecting: 'connecting', live: 'live', paused: 'paused', lost: 'reconnecting' };

function onLink(l: Link, detail: string): void {
  if (l === 'live' || l === 'lost') document.body.dataset.ready = '';
  const s = $('status');
  attr(s, 'data-state', l);
  text(s.lastElementChild as Element, l === 'live' && detail !== 'ready' ? detail : detail === 'key needed' ? detail : words[l]);
  attr(s, 'title', detail);
}

/* ---- Start ---- */

const feed = createFeed({
  history(s) {
    state = s;
    history.fill(s);
    if (!spanChosen) show(s.uptime_s < 90 ? 60 : 180);
    drawTime();
    drawState(s);
  },
  state: onState,
  link: onLink,
  needKey(message) {
    text($('key-error'), message);
    const dialog = $<HTMLDialogElement>('key');
    if (!dialog.open) dialog.showModal();
    $<HTMLInputElement>('key-input').select();
  },
});

function initKey(): void {
  const dialog = $<HTMLDialogElement>('key');
  dialog.addEventListener('cancel', (e) => e.preventDefault()); // there is nothing behind it
  $('key-form').addEventListener('submit', (e) => {
    e.preventDefault();
    const input = $<HTMLInputElement>('key-input');
    const k = input.value.trim();
    if (!k) return;
    input.value = '';
    dialog.close();
    feed.setKey(k);
  });
}

function togglePause(): void {
  paused = !paused;
  const b = $('pause');
  attr(b, 'aria-pressed', String(paused));
  text(b, paused ? 'Resume' : 'Pause');
  feed.pause(paused);
}

function initControls(): void {
  $('pause').addEventListener('click', togglePause);
  $('try').addEventListener('click', () => ($('try').getAttribute('aria-expanded') === 'true' ? closeDrawer() : openTry()));
  $('drawer-close').addEventListener('click', closeDrawer);
  const seg = el('div', { class: 'seg', role: 'group', 'aria-label': 'Which requests' }, ...['Live', 'Ended'].map((name, i) => el('button', {
    'aria-pressed': String(!i),
    onclick: (e: Event) => {
      showEnded = i === 1;
      endedAt = 0;
      for (const b of Array.from(seg.children)) attr(b, 'aria-pressed', String(b === e.currentTarget));
      drawRequests();
      void refreshSlow();
    },
  }, name)));
  $('requests-sum').after(seg);
  document.addEventListener('keydown', (e) => {
    const typing = (e.target as HTMLElement).closest('input, textarea, button, dialog');
    if (e.key === 'Escape' && !$('drawer').hidden) closeDrawer();
    else if (e.key === 'Escape' && kept != null) keep(null);
    else if (e.key === ' ' && !typing) {
      e.preventDefault();
      togglePause();
    }
  });
}

initTheme(() => {
  charts?.restyle();
  kv.draw();
  drawExplain();
  drawRequests();
});
renderFigures(null);
initTime();
initControls();
initKey();
feed.start();
