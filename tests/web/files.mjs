// What is served at / and /ui, and that it is what web/ builds.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { Server, test } from '../http/lib.mjs';

const web = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../web');
const FILES = { '/': 'index.html', '/ui/app.js': 'app.js', '/ui/style.css': 'style.css' };
const MOST_BYTES = 150_000;

// fetch would decompress on its own
const raw = (url, headers = {}, method = 'GET') => new Promise((done, fail) => {
  http.request(url, { method, headers }, (r) => {
    const parts = [];
    r.on('data', (d) => parts.push(d));
    r.on('end', () => done({ status: r.statusCode, headers: r.headers, body: Buffer.concat(parts) }));
  }).on('error', fail).end();
});

test('web: what is committed is what the sources build', () => {
  const fresh = mkdtempSync(path.join(os.tmpdir(), 'weir-dist-'));
  execFileSync('node', ['build.mjs', fresh], { cwd: web });
  for (const f of Object.values(FILES))
    assert.ok(readFileSync(path.join(fresh, f)).equals(readFileSync(path.join(web, 'dist', f))), `web/dist/${f} is stale: make web`);
  execFileSync('npx', ['--no-install', 'tsc', '--noEmit'], { cwd: web });
});

test('web: files, compressed or not, small, cached by tag', async () => {
  const s = await Server.start();
  let plain = 0;
  for (const [at, name] of Object.entries(FILES)) {
    const want = readFileSync(path.join(web, 'dist', name));
    const a = await raw(s.url + at);
    assert.equal(a.status, 200);
    assert.equal(a.headers['content-encoding'], undefined);
    assert.ok(a.body.equals(want), name);
    assert.match(a.headers['content-type'], name.endsWith('js') ? /^text\/javascript/ : name.endsWith('css') ? /^text\/css/ : /^text\/html/);
    assert.match(a.headers['content-security-policy'], /^default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; .*frame-ancestors 'none'$/);
    assert.equal(a.headers['x-content-type-options'], 'nosniff');
    plain += a.body.length;
    for (const accepted of ['gzip', 'br, GZIP;q=0.8, *;q=0.1']) {
      const z = await raw(s.url + at, { 'accept-encoding': accepted });
      assert.equal(z.headers['content-encoding'], 'gzip');
      assert.ok(gunzipSync(z.body).equals(want));
      assert.notEqual(z.headers.etag, a.headers.etag);
      const again = await raw(s.url + at, { 'accept-encoding': accepted, 'if-none-match': `W/"x", ${z.headers.etag}` });
      assert.equal(again.status, 304);
      assert.equal(again.body.length, 0);
    }
    for (const refused of ['gzip;q=0', 'gzip; q=0.0', 'br', 'xgzip'])
      assert.equal((await raw(s.url + at, { 'accept-encoding': refused })).headers['content-encoding'], undefined, refused);
    const head = await raw(s.url + at, {}, 'HEAD');
    assert.equal(Number(head.headers['content-length']), want.length);
  }
  assert.ok(plain < MOST_BYTES, `${plain} bytes`);
  assert.equal((await raw(`${s.url}/ui/nothing`)).status, 404);
  assert.equal((await raw(s.url, {}, 'POST')).status, 405);
  assert.equal(await s.stop(), 0);
});
