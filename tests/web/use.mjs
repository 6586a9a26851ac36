// Using the page: by keyboard, with a key, and to talk to the model.
import assert from 'node:assert/strict';
import { Server, sleep, test } from '../http/lib.mjs';
import { live, load, poorContrast, textOf, withPage } from './lib.mjs';

test('web: everything by keyboard', async () => {
  const s = await Server.start();
  const stop = load(s, 6);
  await withPage(`${s.url}/`, {}, async (page) => {
    await live(page);
    await sleep(3000);
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.textContent);
    const seen = [];
    for (let i = 0; i < 14; i++) {
      await page.keyboard.press('Tab');
      seen.push(await focused());
      if (i) { // the skip link is the first
        const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
        assert.notEqual(outline, 'none', `focus shows on ${seen[i]}`);
      }
    }
    for (const id of ['skip', 'pause', 'theme', 'try', 'charts']) assert.ok(seen.includes(id), `${id} in ${seen}`);

    await page.focus('#charts');
    await page.keyboard.press('ArrowLeft');
    await page.keyboard.press('ArrowLeft');
    assert.match(await textOf(page, '#explain h3'), /^At \d\d:\d\d:\d\d/);
    const told = await page.getAttribute('#charts', 'aria-valuetext');
    assert.match(told, /^\d\d:\d\d:\d\d: ./);
    const kept = await textOf(page, '#explain');
    await sleep(1500);
    assert.equal(await textOf(page, '#explain'), kept, 'what is kept stands still');
    await page.keyboard.press('Escape');
    assert.match(await textOf(page, '#explain h3'), /^Now/);

    await page.focus('#try');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.tagName), 'TEXTAREA');
    await page.keyboard.press('Escape');
    assert.ok(await page.isHidden('#drawer'));
    assert.equal(await focused(), 'try', 'focus goes back to where it was');

    await page.evaluate(() => document.activeElement.blur());
    await page.keyboard.press('Space');
    await page.waitForSelector('#status[data-state=paused]');
    await page.keyboard.press('Space');
    await live(page);

    await page.focus('#table tbody tr button');
    await page.keyboard.press('Enter');
    await page.waitForSelector('#drawer .lane');
    await page.keyboard.press('Escape');
  });
  await stop();
  await s.stop();
});

test('web: pointing at a moment explains it; clicking keeps it', async () => {
  const s = await Server.start();
  const stop = load(s, 6);
  await withPage(`${s.url}/`, {}, async (page) => {
    await live(page);
    await sleep(4000);
    const box = await (await page.$('#charts .u-over')).boundingBox();
    await page.mouse.move(box.x + box.width - 6, box.y + box.height / 2);
    assert.match(await textOf(page, '#explain h3'), /^At .*click to keep/s);
    await page.mouse.click(box.x + box.width - 6, box.y + box.height / 2);
    assert.match(await textOf(page, '#explain h3'), /Back to now/);
    await page.mouse.move(5, 5);
    await page.click('#explain button');
    assert.match(await textOf(page, '#explain h3'), /^Now/);
  });
  await stop();
  await s.stop();
});

test('web: a prompt, its stream and its timeline', async () => {
  const s = await Server.start();
  await withPage(`${s.url}/`, { quiet: /400/ }, async (page) => {
    await live(page);
    await page.click('#try');
    await page.fill('#drawer textarea', 'Hello, who are you?');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.msg.assistant small button');
    assert.match(await textOf(page, '.msg.assistant'), /\w+[^]*\d+ tokens?, first after [\d.]+\s(µs|ms|s)[^]* a token/);
    assert.deepEqual((await poorContrast(page)).poor, []);
    await page.click('.msg.assistant small button');
    await page.waitForSelector('#drawer .lane');
    assert.match(await textOf(page, '#drawer'), /finished[^]*prefill[^]*decode[^]*Bytes moved/);
    await page.keyboard.press('Escape');
    await page.click('#try');
    assert.match(await textOf(page, '.chat'), /who are you/, 'the talk is still there');
    await page.fill('#drawer textarea', 'Too long');
    await page.fill('#drawer input >> nth=0', '100000'); // more than the context
    await page.click('#drawer .ask .primary');
    await page.waitForSelector('.msg.assistant small .bad');
    assert.match(await textOf(page, '.msg.assistant:last-child'), /context/);
    assert.equal(await page.inputValue('#drawer textarea'), 'Too long', 'to be sent again');
    await page.keyboard.press('Escape');
    await page.click('#requests .seg button >> nth=1');
    await page.waitForSelector('#table tbody tr.done');
  });
  await s.stop();
});

test('web: a key is asked for, kept in the tab, and goes nowhere else', async () => {
  const s = await Server.start('--api-key', 'sesame-7');
  await withPage(`${s.url}/`, { quiet: /401/ }, async (page) => {
    await page.waitForSelector('#key[open]');
    assert.equal(await textOf(page, '#key-error'), '');
    assert.deepEqual((await poorContrast(page)).poor, []);
    await page.keyboard.press('Escape');
    assert.ok(await page.isVisible('#key'), 'there is nothing behind it');
    await page.fill('#key-input', 'wrong');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.querySelector('#key-error').textContent.includes('does not know'));
    await page.fill('#key-input', 'sesame-7');
    await page.keyboard.press('Enter');
    await live(page);
    await page.reload();
    await live(page);
    await page.click('#try');
    await page.fill('#drawer textarea', 'Hello!');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.msg.assistant small button');
    assert.ok(page.asked.every((u) => !u.includes('sesame')), 'never in an address');
    assert.ok(!(await page.content()).includes('sesame'));
    assert.deepEqual(await page.evaluate(() => [Object.keys(localStorage).length, Object.values(sessionStorage)]), [0, ['sesame-7']]);
  });
  await s.stop();
});
