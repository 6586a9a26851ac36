// Chromium, pages that tell on themselves, and load for the server behind them.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { mkdtempSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { until } from '../http/lib.mjs';

// The flags keep the browser from calling home; --no-sandbox because tests may run as root.
const context = (options) => chromium.launchPersistentContext(mkdtempSync(path.join(os.tmpdir(), 'weir-web-')), {
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium', viewport: { width: 1440, height: 1000 },
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
  ...options,
});

// Runs fn with a page at url; afterwards nothing may have been logged as an error, thrown, or asked of anybody else.
// quiet: messages that the test provokes.
export async function withPage(url, options, fn) {
  const { quiet = /^$/, ...rest } = options;
  const c = await context(rest);
  const page = c.pages()[0] || await c.newPage();
  page.complaints = [];
  page.asked = [];
  page.on('console', (m) => {
    if (m.type() !== 'error' && m.type() !== 'warning') return;
    if (!quiet.test(m.text())) page.complaints.push(`${m.type()}: ${m.text()}`);
  });
  page.on('pageerror', (e) => page.complaints.push(`thrown: ${e.stack}`));
  page.on('request', (r) => { if (!r.url().startsWith('data:')) page.asked.push(r.url()); });
  await page.addInitScript(() => {
    globalThis.violations = [];
    globalThis.shifts = [];
    document.addEventListener('securitypolicyviolation', (e) => globalThis.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
    new PerformanceObserver((l) => {
      for (const e of l.getEntries()) globalThis.shifts.push(e.value);
    }).observe({ type: 'layout-shift', buffered: true });
  });
  try {
    await page.goto(url);
    await fn(page);
    page.complaints.push(...await page.evaluate(() => globalThis.violations));
    if (page.complaints.length) throw new Error(`the page complains:\n${page.complaints.join('\n')}`);
    const strange = page.asked.filter((u) => new URL(u).origin !== new URL(url).origin);
    if (strange.length) throw new Error(`asked of others: ${strange.join(' ')}`);
  } finally {
    await c.close();
  }
}

export const status = (page, s) => page.waitForSelector(`#status[data-state=${s}]`, { timeout: 30_000 });
export const live = async (page) => {
  await status(page, 'live');
  await page.waitForFunction(() => document.querySelectorAll('#figures .figure').length === 8);
};
export const textOf = (page, selector) => page.$eval(selector, (e) => e.innerText);

// Waits until what is drawn says so; returns all of it.
export async function says(page, selector, want) {
  let text = '';
  await until(async () => want.test(text = await textOf(page, selector)), `${selector} says ${want}`, 30_000)
    .catch((e) => assert.fail(`${e.message}, not ${text}`));
  return text;
}

// Waits until the page has drawn n more states of the server.
export async function states(page, n = 1) {
  const now = () => page.getAttribute('#charts', 'aria-valuemax').then(Number); // in whole seconds
  const began = await now();
  await until(async () => await now() >= began + n, 'the page is drawn again');
}

export const focused = (page) => page.evaluate(() => {
  const e = document.activeElement;
  return { name: e.id || e.className || e.tagName, key: e.closest('tr')?.dataset.key, shown: getComputedStyle(e).outlineStyle !== 'none' };
});

// n clients that ask one thing after the other until stop() is called.
export function load(server, n, headers = {}) {
  const open = new Set(); // one controller a request: a shared one would keep all of them alive
  let stopped = false;
  const words = 'bandwidth memory weights sequence chunk prefill decode cache token scheduler queue pressure'.split(' ');
  const one = async (k) => {
    for (let i = 0; !stopped; i++) {
      const ask = new AbortController();
      open.add(ask);
      const length = 8 << ((k + i) % 6);
      const prompt = Array.from({ length }, (_x, w) => words[(w * 7 + k + i) % words.length]).join(' ');
      await fetch(`${server.url}/v1/chat/completions`, {
        method: 'POST', signal: ask.signal, headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify({
          messages: [{ role: 'system', content: 'You are a helpful assistant that knows memory systems well.' }, { role: 'user', content: prompt }],
          max_tokens: 64 + 40 * ((k * 3 + i) % 8), ignore_eos: true, seed: k * 1000 + i,
        }),
      }).then((r) => r.text()).catch((e) => { if (!stopped) throw e; });
      open.delete(ask);
    }
  };
  const all = Promise.all(Array.from({ length: n }, (_x, k) => one(k)));
  all.catch(() => {});
  return async () => {
    stopped = true;
    for (const ask of open) ask.abort();
    await all;
  };
}

// Every visible text with less contrast to what is painted behind it than WCAG AA asks: 4.5, or 3 for large text.
export const poorContrast = (page) => page.evaluate(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = css;
    canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data;
    return [d[0], d[1], d[2], d[3] / 255];
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const luminance = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = [];
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n = walker.nextNode(); n; n = walker.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || !e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || e.closest('.skip, noscript, :disabled')) continue;
    const behind = [];
    for (let p = e; p; p = p.parentElement) behind.unshift(rgba(getComputedStyle(p).backgroundColor));
    const back = behind.reduce((acc, c) => over(c, acc), [255, 255, 255, 1]);
    const style = getComputedStyle(e), front = over(rgba(style.color), back);
    const [hi, lo] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    seen++;
    if ((hi + 0.05) / (lo + 0.05) < (large ? 3 : 4.5)) poor.push(`${((hi + 0.05) / (lo + 0.05)).toFixed(2)} "${n.data.trim().slice(0, 40)}" ${style.color}`);
  }
  return { poor, seen };
});
