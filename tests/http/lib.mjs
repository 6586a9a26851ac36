// Test runner, server processes and raw sockets for the HTTP tests.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import net from 'node:net';
import { fileURLToPath } from 'node:url';
import path from 'node:path';
import OpenAI from 'openai';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
export const binary = process.env.WEIR_BIN || path.join(root, 'weir');
const model = process.env.WEIR_TEST_MODEL; // another model than the bundled one
const extra = (process.env.WEIR_TEST_ARGS || '').split(' ').filter(Boolean);

const tests = [];
export const test = (name, fn) => tests.push({ name, fn });

export async function runAll() {
  let passed = 0, failed = 0;
  const only = process.argv[2];
  for (const { name, fn } of tests) {
    if (only && !name.includes(only)) continue;
    const began = Date.now(), others = new Set(servers);
    let timer;
    const limit = new Promise((_, no) => { timer = setTimeout(() => no(new Error('timed out')), 120_000); });
    try {
      await Promise.race([fn(), limit]);
      passed++;
      console.log(`ok ${name} (${Date.now() - began} ms)`);
    } catch (e) {
      failed++;
      console.log(`not ok ${name}\n${(e.stack || String(e)).replace(/^/gm, '    ')}`);
      for (const s of servers) if (!others.has(s)) await s.kill(); // and with it what loads it
    }
    clearTimeout(timer);
  }
  for (const s of [...servers]) await Promise.race([s.stop(), sleep(20_000).then(() => s.kill())]);
  for (const log of logs) { // a sanitised binary tells on stderr
    const report = log.match(/(ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:)[^]{0,3000}/);
    if (!report) continue;
    failed++;
    console.log(`not ok sanitizer\n${report[0].replace(/^/gm, '    ')}`);
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

const servers = new Set();
const logs = [];

export class Server {
  static async start(...args) {
    const s = new Server();
    const argv = ['serve', ...(model ? [model] : []), '--port', '0', ...extra, ...args];
    s.process = spawn(binary, argv, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    s.log = '';
    s.out = '';
    s.exited = new Promise((done) => s.process.on('close', (code, signal) => {
      logs.push(s.log);
      done({ code, signal });
    }));
    s.process.stderr.on('data', (d) => { s.log += d; });
    servers.add(s);
    await new Promise((yes, no) => {
      s.process.stdout.on('data', (d) => {
        s.out += d;
        const m = s.out.match(/at (https?):\/\/(\S+):(\d+)\n/);
        if (!m) return;
        s.port = Number(m[3]);
        s.url = `${m[1]}://127.0.0.1:${s.port}`;
        yes();
      });
      s.exited.then(({ code }) => no(new Error(`weir serve exited with ${code}: ${s.log}`)));
    });
    return s;
  }

  client(options = {}) {
    return new OpenAI({ baseURL: `${this.url}/v1`, apiKey: 'none', maxRetries: 0, ...options });
  }

  async kill() {
    this.process.kill('SIGKILL');
    await this.exited;
    servers.delete(this);
  }

  async stop() {
    this.process.kill('SIGTERM');
    const { code } = await this.exited;
    servers.delete(this);
    return code;
  }

  async post(where, body, headers = {}) {
    const r = await fetch(this.url + where, {
      method: 'POST', headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await r.text();
    let json = null;
    try { json = JSON.parse(text); } catch { /* not JSON: the test looks at text */ }
    return { status: r.status, headers: r.headers, text, json };
  }

  async metrics() {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const values = {};
    for (const line of text.split('\n')) {
      const m = line.match(/^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})? (\S+)$/);
      if (m) values[m[1] + (m[2] || '').replace(/model_name="[^"]*",engine="0",?/, '').replace('{}', '')] = Number(m[3]);
    }
    return { text, values };
  }

  // Waits until the values of the metrics are as told.
  async shows(what, predicate) {
    await until(async () => predicate((await this.metrics()).values), what);
  }

  // Waits until nothing runs or waits and no KV chunk is owned by a sequence.
  async idle() {
    await this.shows('nothing runs', (v) => !v['vllm:num_requests_running'] && !v['vllm:num_requests_waiting'] &&
      !v['weir_kv_chunks{state="active"}']);
  }

  async running(n = 1) {
    await this.shows(`${n} run`, (v) => v['vllm:num_requests_running'] >= n);
  }

  // A socket that writes raw bytes and gathers what comes back.
  raw(text) {
    const socket = net.connect(this.port, '127.0.0.1');
    const c = { socket, data: '', closed: false };
    socket.on('data', (d) => { c.data += d.toString('latin1'); });
    c.end = new Promise((done) => socket.on('close', () => { c.closed = true; done(c.data); }));
    socket.on('error', () => {});
    c.until = async (predicate) => {
      await until(() => predicate(c.data) || (c.closed && assert.fail(`closed after: ${c.data.slice(0, 2000)}`)), 'the bytes come');
      return c.data;
    };
    if (text) socket.write(text);
    return c;
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// Waits until fn's result is true, and returns it. What follows from an event is waited for, never expected at once:
// the bound is there to end, not to measure.
export async function until(fn, what, limit = 60_000) {
  for (const began = Date.now(); ; await sleep(10)) {
    const got = await fn();
    if (got) return got;
    if (Date.now() - began > limit) throw new Error(`waited in vain until ${what}`);
  }
}

export function request(where, body, headers = '') {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return `POST ${where} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${headers}` +
    `Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
}

// Splits raw bytes into HTTP responses: status, headers, body.
export function responses(data) {
  const all = [];
  while (data) {
    const end = data.indexOf('\r\n\r\n');
    if (end < 0) break;
    const [first, ...lines] = data.slice(0, end).split('\r\n');
    const headers = Object.fromEntries(lines.map((l) => [l.slice(0, l.indexOf(':')).toLowerCase(),
      l.slice(l.indexOf(':') + 1).trim()]));
    data = data.slice(end + 4);
    let body = '';
    if (headers['transfer-encoding'] === 'chunked') {
      for (;;) {
        const eol = data.indexOf('\r\n');
        const n = parseInt(data.slice(0, eol), 16);
        body += data.slice(eol + 2, eol + 2 + n);
        data = data.slice(eol + 4 + n);
        if (!n) break;
      }
    } else {
      const n = Number(headers['content-length'] || 0);
      body = data.slice(0, n);
      data = data.slice(n);
    }
    all.push({ status: Number(first.split(' ')[1]), headers, body });
  }
  return all;
}
