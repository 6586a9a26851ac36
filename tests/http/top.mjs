// `weir top` against a running server: on a terminal (tmux is one), as lines, once, as JSON.
import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { binary, root, Server, test, until } from './lib.mjs';

const run = promisify(execFile);
const top = (args, env = {}) => run(binary, ['top', ...args], { cwd: root, env: { ...process.env, ...env }, timeout: 20_000 });

// A terminal of its own: what it shows, and how to type into it.
class Terminal {
  constructor(columns, lines, command, env = {}) {
    this.socket = path.join(mkdtempSync(path.join(os.tmpdir(), 'weir-top-')), 's');
    const pairs = Object.entries({ LANG: 'C.UTF-8', ...env }).flatMap(([k, v]) => ['-e', `${k}=${v}`]);
    this.tmux('-f', '/dev/null', 'new-session', '-d', '-x', String(columns), '-y', String(lines), ...pairs,
      `${command}; echo "exit $?"; sleep 60`);
  }

  tmux(...args) { return execFileSync('tmux', ['-u', '-S', this.socket, ...args], { cwd: root, encoding: 'utf8' }); }
  screen(...args) { return this.tmux('capture-pane', '-p', ...args); }
  type(...keys) { this.tmux('send-keys', ...keys); }
  resize(columns, lines) { this.tmux('resize-window', '-x', String(columns), '-y', String(lines)); }
  close() { this.tmux('kill-server'); }

  async until(predicate) {
    let screen = '';
    await until(() => predicate(screen = this.screen()), 'it is shown').catch((e) => assert.fail(`${e.message}; the screen:\n${screen}`));
    return screen;
  }
}

// n clients that ask one thing after the other until told otherwise.
function work(s, n) {
  const stop = new AbortController();
  const all = Array.from({ length: n }, async (_x, i) => {
    while (!stop.signal.aborted) {
      await fetch(`${s.url}/v1/completions`, {
        method: 'POST', signal: stop.signal, headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ prompt: `count ${i}`, max_tokens: 3900, ignore_eos: true }),
      }).then((r) => r.text()).catch(() => {});
    }
  });
  return async () => {
    stop.abort();
    await Promise.all(all);
  };
}

test('top: a terminal, its size, its keys, a server that comes back', async () => {
  let s = await Server.start('--max-running', '4');
  const { port } = s;
  const stop = work(s, 8);
  const t = new Terminal(120, 30, `${binary} top --url ${s.url}`);
  try {
    const shown = await t.until((x) => /^queue\s+4 waiting/m.test(x) && (x.match(/ decode /g) || []).length === 4);
    for (const row of ['bandwidth', 'compute', 'bytes', 'KV pool', 'tokens', 'steps', 'pressure'])
      assert.match(shown, new RegExp(`^${row} +\\S`, 'm'));
    assert.match(shown, /█/);
    assert.match(shown, /waits for: slots/);
    assert.match(t.screen('-e'), /\x1b\[[0-9;]*3[1-5]m/, 'in colour');
    t.resize(60, 18);
    await t.until((x) => /more \(arrow keys\)/.test(x) && x.trimEnd().split('\n').length === 18);
    t.type('Down', 'Down', 'PageDown');
    await t.until((x) => !x.includes('more (arrow keys)'));
    t.resize(140, 40);
    t.type('Space');
    await t.until((x) => /^weir .* paused$/m.test(x));
    await s.shows('paused: no stream', (v) => v.weir_stream_listeners === 0);
    t.type('Space');
    await t.until((x) => /^weir .* ready$/m.test(x));
    await stop();
    await s.kill();
    await t.until((x) => /^weir .*(ended|connect|reset|closed|transfer)/mi.test(x));
    s = await Server.start('--port', String(port));
    await t.until((x) => /^weir .* ready$/m.test(x) && x.includes('nothing runs'));
    t.type('q');
    assert.doesNotMatch(await t.until((x) => x.includes('exit 0')), /bandwidth/, 'the screen is as it was');
  } finally {
    t.close();
  }
  await s.stop();
});

test('top: without colour, without UTF-8', async () => {
  const s = await Server.start();
  const t = new Terminal(100, 30, `${binary} top --url ${s.url}`, { LANG: 'C', LC_ALL: 'C', NO_COLOR: '1' });
  try {
    await t.until((x) => x.includes('nothing runs'));
    assert.doesNotMatch(t.screen('-e'), /\x1b\[[0-9;]*3[0-7]m/);
    assert.match(t.screen(), /^[\x20-\x7e\n]*$/);
    t.type('C-c');
    await t.until((x) => x.includes('exit 0'));
  } finally {
    t.close();
  }
  await s.stop();
});

test('top: once, as JSON, as lines', async () => {
  const s = await Server.start();
  const once = await top(['--url', `${s.url}/`, '--once']);
  assert.match(once.stdout, /^weir .*\nbandwidth +/);
  assert.doesNotMatch(once.stdout, /\x1b/);
  const state = JSON.parse((await top(['--once', '--json'], { WEIR_URL: s.url })).stdout);
  assert.equal(state.object, 'weir.state');
  assert.ok(Array.isArray(state.history.time_s));
  const lines = spawn(binary, ['top', '--url', s.url, '--interval-s', '0.2'], { cwd: root });
  let out = '';
  lines.stdout.on('data', (d) => { out += d; });
  await until(() => out.split('\n').length >= 4, 'it tells');
  const ended = new Promise((done) => lines.on('close', done));
  lines.kill('SIGTERM');
  assert.equal(await ended, 0);
  for (const line of out.trimEnd().split('\n'))
    assert.match(line, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ( [a-z_0-9]+=\S+)+$/);
  await s.stop();
});

test('top: what is wrong is said', async () => {
  const s = await Server.start('--api-key', 'sesame');
  const fails = async (args, want, env) => {
    const e = await top(args, env).then(() => null, (x) => x);
    assert.ok(e, `fails: ${args}`);
    assert.match(e.stderr, want);
    assert.doesNotMatch(e.stderr, /sesame/);
  };
  await fails(['--url', s.url, '--once'], /401.*--api-key-file/);
  await fails(['--url', s.url], /401.*--api-key-file/);
  await fails(['--url', s.url, '--once'], /401/, { WEIR_API_KEY: 'wrong' });
  await fails(['--url', 'http://127.0.0.1:1', '--once'], /127\.0\.0\.1:1: .*connect/i);
  await fails(['--url', 'ftp://127.0.0.1', '--once'], /ftp/);
  await fails(['--url', `${s.url}/elsewhere`], /404/);
  await fails(['extra'], /unexpected 'extra'/);
  const file = path.join(mkdtempSync(path.join(os.tmpdir(), 'weir-top-')), 'keys');
  writeFileSync(file, '# the keys\n\nsesame name=me admin\n');
  assert.match((await top(['--url', s.url, '--once', '--api-key-file', file])).stdout, /^weir /);
  assert.match((await top(['--url', s.url, '--once'], { WEIR_API_KEY: 'sesame' })).stdout, /^weir /);
  writeFileSync(file, '# nothing\n');
  await fails(['--url', s.url, '--once', '--api-key-file', file], /holds no API key/);
  await s.stop();
});
