// The pages that `weir replay` and `weir plan` write: whole without a network, in both colour schemes and on a phone.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { binary as weir, test } from '../http/lib.mjs';
import { withPage } from './lib.mjs';

const small = ['--synthetic', '--requests', '600', '--rate', '30', '--policy', 'weir,vllm,contiguous', '--price', '2'];

async function withReport(args, fn) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'weir-report-'));
  try {
    const file = path.join(dir, 'page.html');
    execFileSync(weir, [...args, '--html', file], { stdio: ['ignore', 'ignore', 'pipe'] });
    await fn(pathToFileURL(file).href);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const isWide = (page) => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);

test('a replay as a page: rates, policies, series, tables', () => withReport(['replay', ...small, '--rate-scale', '1,3'], async (url) => {
  await withPage(url, { offline: true }, async (page) => {
    assert.match(await page.title(), /Llama 3\.1 8B on h100-sxm/);
    const goodput = () => page.$eval('#tiles b', (e) => e.textContent);
    const before = await goodput();
    await page.click('#rates button:text-is("1x")');
    assert.notEqual(await goodput(), before);
    assert.equal(await page.locator('#series polyline').count(), 3);
    await page.click('#legend button:has-text("vllm")');
    assert.equal(await page.locator('#series polyline').count(), 2);
    assert.equal(await page.locator('#service tbody tr').count(), 2);
    for (const b of await page.locator('#modes button').all()) {
      await b.click();
      assert.equal(await b.getAttribute('aria-pressed'), 'true');
      assert.equal(await page.locator('#series polyline').count(), 2);
    }
    await page.locator('#series svg').hover();
    assert.match(await page.$eval('#series .tip', (e) => e.innerText), /at .*weir.*contiguous/s);
    assert.equal(await isWide(page), false);
  });
}));

test('a replay of one rate, and a plan, on a phone in the dark', async () => {
  const phone = { offline: true, viewport: { width: 390, height: 800 }, colorScheme: 'dark' };
  for (const args of [['replay', ...small], ['plan', 'llama-3.1-8b', 'h100', '--compare', 'l40s,a100']]) {
    await withReport(args, (url) => withPage(url, phone, async (page) => {
      assert.equal(await isWide(page), false);
      const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      assert.equal(dark, 'rgb(20, 23, 26)');
      assert.ok(await page.locator('svg').count() > 1);
    }));
  }
});
