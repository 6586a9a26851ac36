// How the page looks and moves: load, themes, contrast, small screens, restarts, hidden tabs.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { Server, sleep, test, until } from '../http/lib.mjs';
import { live, load, poorContrast, says, states, status, textOf, withPage } from './lib.mjs';

const shots = process.env.WEIR_SHOTS;
const shot = async (page, name, fullPage = true) => {
  if (!shots) return;
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: path.join(shots, `${name}.png`), fullPage });
};
const inked = (page, selector) => page.$$eval(selector, (all) => all.map((c) => { // distinct colours of each canvas
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  return new Set(new Uint32Array(d.buffer)).size;
}));

for (const scheme of ['light', 'dark']) {
  test(`web: updates under load, ${scheme}`, async () => {
    const s = await Server.start('--max-running', '24', '--price-per-bandwidth-hour', '2.5');
    await withPage(`${s.url}/`, { colorScheme: scheme }, async (page) => {
      await live(page);
      const stop = load(s, 28);
      await page.waitForFunction(() => document.querySelectorAll('#table tbody tr').length >= 16);
      await page.waitForFunction(() => document.querySelector('#queue-sum').textContent !== 'nobody waits');
      const before = await textOf(page, '#figures');
      await states(page, Number(process.env.WEIR_SHOT_S || 4));
      await until(async () => await textOf(page, '#figures') !== before, 'the figures change');
      const figures = (await textOf(page, '#figures')).split('\n');
      for (const name of ['Memory bandwidth', 'Compute', 'Tokens out', 'Requests', 'First token', 'Between tokens', 'KV pool', 'Prediction error'])
        assert.ok(figures.includes(name), name);
      assert.doesNotMatch(await textOf(page, '#figures'), /NaN|undefined|null|Infinity/);
      assert.doesNotMatch(await textOf(page, 'main'), /NaN|undefined|\[object/);
      await until(async () => (await inked(page, '#charts canvas')).every((n) => n > 8), 'every chart is drawn');
      await until(async () => (await inked(page, '#kv-map'))[0] >= 4, 'the map shows several owners');
      await says(page, '#explain', /slowest step took .+: \d+ decoding/);
      await says(page, '#queue-body', /\d+ wait for /);
      await says(page, '#cost-sum', /an hour/);
      const shifts = await page.evaluate(() => globalThis.shifts);
      assert.ok(shifts.reduce((a, b) => a + b, 0) < 0.05, `layout shifts: ${shifts}`);
      assert.deepEqual((await poorContrast(page)).poor, []);
      await shot(page, `desktop-${scheme}`);
      await page.click('#table tbody tr:nth-child(3) button');
      await page.waitForSelector('#drawer .lane .track i');
      await says(page, '#drawer', /prefill|queued/);
      assert.deepEqual((await poorContrast(page)).poor, []);
      await shot(page, `timeline-${scheme}`, false);
      await stop();
      await page.waitForFunction(() => !document.querySelector('#table tbody tr'));
      await says(page, '#queue-sum', /nobody waits/);
    });
    assert.equal(await s.stop(), 0);
  });
}

test('web: phones', async () => {
  const s = await Server.start();
  for (const width of [320, 390, 768]) {
    await withPage(`${s.url}/`, { viewport: { width, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 }, async (page) => {
      const stop = load(s, 16);
      await live(page);
      await page.waitForFunction(() => document.querySelectorAll('#table tbody tr').length >= 4);
      const wide = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(await wide() <= 0, `scrolls sideways at ${width}`);
      await states(page, 3);
      await shot(page, `phone-${width}`);
      await page.tap('#try');
      await page.waitForSelector('#drawer textarea');
      assert.ok(await wide() <= 0, `the drawer scrolls sideways at ${width}`);
      await shot(page, `phone-${width}-try`, false);
      await stop();
    });
  }
  await s.stop();
});

test('web: light and dark, as the system or as chosen', async () => {
  const s = await Server.start();
  await withPage(`${s.url}/`, { colorScheme: 'dark' }, async (page) => {
    const theme = () => page.evaluate(() => [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor]);
    const is = (name) => until(async () => (await theme())[0] === name, `it is ${name}`);
    await live(page);
    await is('dark');
    const dark = (await theme())[1];
    await page.emulateMedia({ colorScheme: 'light' });
    await is('light');
    const light = (await theme())[1];
    assert.notEqual(light, dark);
    await page.click('#theme'); // light
    await page.click('#theme'); // dark
    await is('dark');
    assert.deepEqual(await theme(), ['dark', dark]);
    await page.reload();
    await live(page);
    assert.deepEqual(await theme(), ['dark', dark], 'the choice outlives the page');
    await page.click('#theme'); // as the system
    await is('light');
    assert.deepEqual(await theme(), ['light', light]);
  });
  await s.stop();
});

test('web: outlives a server that is killed and comes back', async () => {
  let s = await Server.start();
  await withPage(`${s.url}/`, { quiet: /Failed to load resource|ERR_/ }, async (page) => {
    await live(page);
    await s.kill();
    await status(page, 'lost');
    await says(page, '#status', /reconnecting/);
    s = await Server.start('--port', new URL(page.url()).port);
    await live(page);
    const stop = load(s, 4);
    await page.waitForFunction(() => document.querySelectorAll('#table tbody tr').length > 0);
    await stop();
    assert.equal(await s.stop(), 0, 'an open page does not keep a server from draining');
    await status(page, 'lost');
  });
});

test('web: a hidden or paused page asks for nothing', async () => {
  const s = await Server.start();
  await withPage(`${s.url}/`, {}, async (page) => {
    await live(page);
    const idle = () => s.shows('nothing is asked', (v) => v.weir_http_busy_connections === 0);
    const listens = () => s.shows('the page listens', (v) => v.weir_stream_listeners === 1);
    const hide = (hidden) => page.evaluate((h) => {
      Object.defineProperty(document, 'hidden', { value: h, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
    await listens();
    await hide(true);
    await idle();
    const asked = page.asked.length;
    await sleep(2000);
    assert.equal(page.asked.length, asked);
    await hide(false);
    await live(page);
    await listens();
    await page.click('#pause');
    await status(page, 'paused');
    await idle();
    await page.click('#pause');
    await live(page);
  });
  await s.stop();
});
