// Connections: clients that leave, read slowly, send slowly, pipeline, are too many.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test, Server, request, responses, sleep, until } from './lib.mjs';

const s = await Server.start('--ctx', '4096', '--max-running', '8', '--header-timeout-s', '1', '--max-output-bytes',
  '64K', '--idle-timeout-s', '3');
const openai = s.client();
const long = { prompt: 'Once', max_tokens: 4000, ignore_eos: true };
const finished = async () => (await s.metrics()).values['vllm:request_success_total{finished_reason="length"}'];

test('a client that leaves a stream frees its memory', async () => {
  const stream = await openai.completions.create({ ...long, stream: true });
  let n = 0;
  for await (const _ of stream) if (++n === 3) break; // break aborts the request
  await s.shows('it is seen', (v) => v.weir_http_disconnects_total === 1);
  await s.idle();
  assert.equal(await finished(), 0);
});

test('a client that leaves while nothing is written', async () => {
  const raw = s.raw(request('/v1/completions', { ...long, n: 8 }));
  await s.running(8);
  raw.socket.destroy();
  await s.shows('it is seen', (v) => v.weir_http_disconnects_total === 2);
  await s.idle();
  assert.equal(await finished(), 0);
});

test('a client that leaves at once, many times', async () => {
  for (let i = 0; i < 40; i++) {
    const raw = s.raw(request('/v1/completions', { ...long, stream: i % 2 === 0 }));
    await sleep(i % 5);
    raw.socket[i % 3 ? 'destroy' : 'resetAndDestroy']?.();
    await raw.end;
  }
  await s.idle();
  await s.shows('no connection is busy', (v) => v.weir_http_busy_connections === 0);
});

test('a half-closed connection counts as gone', async () => {
  const raw = s.raw(request('/v1/completions', long));
  await s.running(1);
  raw.socket.end();
  await s.idle();
});

test('a slow reader is cut off', async () => {
  const raw = s.raw();
  raw.socket.pause();
  raw.socket.write(request('/v1/chat/completions', {
    messages: [{ role: 'user', content: 'Hi' }], n: 8, max_tokens: 3000, ignore_eos: true, stream: true,
    logprobs: true, top_logprobs: 20,
  }));
  await s.shows('it is cut off', (v) => v.weir_http_slow_readers_total === 1);
  await s.idle();
  raw.socket.destroy();
});

test('pipelined requests are answered in order', async () => {
  const one = (prompt, more = '') => request('/v1/completions', { prompt, max_tokens: 2, echo: true }, more);
  const raw = s.raw(one('first') + 'GET /health HTTP/1.1\r\nHost: x\r\n\r\n' + one('second') +
    request('/tokenize', { prompt: 'third' }) + request('/nowhere', {}) + one('last', 'Connection: close\r\n'));
  const all = responses(await raw.end);
  assert.deepEqual(all.map((r) => r.status), [200, 200, 200, 200, 404, 200]);
  assert.ok(JSON.parse(all[0].body).choices[0].text.startsWith('first'));
  assert.ok(JSON.parse(all[2].body).choices[0].text.startsWith('second'));
  assert.ok(JSON.parse(all[3].body).tokens.length);
  assert.ok(JSON.parse(all[5].body).choices[0].text.startsWith('last'));
});

test('pipelined behind a stream, byte by byte', async () => {
  const text = request('/v1/completions', { prompt: 'a', max_tokens: 20, ignore_eos: true, stream: true }) +
    request('/v1/completions', { prompt: 'b', max_tokens: 1 }, 'Connection: close\r\n');
  const raw = s.raw();
  for (const c of text) {
    raw.socket.write(c);
    if (Math.random() < 0.02) await sleep(1);
  }
  const [a, b] = responses(await raw.end);
  assert.ok(a.body.endsWith('data: [DONE]\n\n'));
  assert.equal(JSON.parse(b.body).usage.completion_tokens, 1);
});

test('keep-alive: many requests on one connection', async () => {
  const raw = s.raw();
  for (let i = 1; i <= 30; i++) {
    raw.socket.write(request('/v1/completions', { prompt: 'x', max_tokens: 1 }));
    await raw.until((d) => responses(d).length === i);
  }
  assert.ok(responses(raw.data).every((r) => r.status === 200));
  raw.socket.destroy();
});

test('HTTP/1.0: whole answers and streams end with the connection', async () => {
  const body = JSON.stringify({ prompt: 'x', max_tokens: 3, stream: true });
  for (const keep of ['', 'Connection: keep-alive\r\n']) {
    const data = await s.raw(`POST /v1/completions HTTP/1.0\r\n${keep}Content-Length: ${body.length}\r\n\r\n${body}`).end;
    assert.ok(data.startsWith('HTTP/1.0 200') || data.startsWith('HTTP/1.1 200'));
    assert.ok(!/transfer-encoding|content-length/i.test(data));
    assert.ok(data.endsWith('data: [DONE]\n\n'));
  }
});

test('408: a request that drips in', async () => {
  const raw = s.raw('POST /v1/completions HTTP/1.1\r\nHost: x\r\n');
  const drip = setInterval(() => raw.socket.write('X-A: b\r\n'), 100);
  const [r] = responses(await raw.end);
  clearInterval(drip);
  assert.equal(r.status, 408);
  assert.equal(JSON.parse(r.body).error.code, 'request_timeout');
});

test('an encoding that is not known has no end, and is cut off', async () => {
  const [r] = responses(await s.raw('POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n' +
    'GET /health HTTP/1.1\r\nHost: x\r\n\r\n').end);
  assert.ok([400, 408, 413].includes(r.status), `${r.status}`);
});

test('silent and idle connections are closed', async () => {
  await s.raw().end;
  const idle = s.raw('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
  const data = await idle.end;
  assert.equal(responses(data)[0].status, 200);
});

test('a long answer outlives the idle timeout', async () => {
  for (let tokens = 300; ; tokens *= 2) { // until one takes longer than the timeout of 3 s
    const began = Date.now();
    const r = await openai.completions.create({ ...long, n: 8, max_tokens: tokens });
    assert.equal(r.usage.completion_tokens, 8 * tokens);
    if (Date.now() - began > 3200 || tokens > 1500) break;
  }
});

test('429 with Retry-After when the queue is full', async () => {
  const small = await Server.start('--ctx', '2048', '--max-running', '1', '--max-queued', '1');
  const ask = { prompt: 'x', max_tokens: 200, ignore_eos: true };
  const six = (fn) => Promise.all(Array.from({ length: 6 }, fn));
  await until(async () => { // unless they came far apart
    const all = await six(() => small.post('/v1/completions', ask)), refused = all.filter((r) => r.status === 429);
    assert.ok(all.every((r) => r.status === 200 || r.status === 429) && refused.length <= 5);
    for (const r of refused) {
      assert.ok(Number(r.headers.get('retry-after')) >= 1);
      assert.equal(r.json.error.type, 'rate_limit_error');
    }
    return refused.length >= 3;
  }, 'three are refused');
  await until(async () => {
    const all = await six(() => small.client().completions.create({ ...ask, stream: true }).then(async (stream) => {
      for await (const _ of stream);
      return 200;
    }, (e) => e.status));
    assert.ok(all.every((status) => status === 200 || status === 429));
    return all.includes(429);
  }, 'a stream is refused');
  await small.idle();
  assert.equal(await small.stop(), 0);
});

test('a stream that waits in the queue begins all the same', async () => {
  const one = await Server.start('--ctx', '4096', '--max-running', '1');
  const ahead = Array.from({ length: 12 }, () => one.raw(request('/v1/completions', long)));
  await one.shows('they wait', (v) => v['vllm:num_requests_waiting'] >= 8);
  const began = Date.now();
  const second = one.raw(request('/v1/completions', { prompt: 'x', max_tokens: 1, stream: true }));
  const head = await second.until((d) => d.includes('\r\n\r\n'));
  assert.ok(Date.now() - began > 500 && head.includes('text/event-stream') && !head.includes('data: '));
  for (const c of ahead)
    c.socket.destroy();
  await second.until((d) => d.includes('[DONE]'));
  second.socket.destroy();
  assert.equal(await one.stop(), 0);
});

test('more connections than allowed wait their turn', async () => {
  const few = await Server.start('--max-connections', '4', '--ctx', '512');
  const get = 'GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n';
  const idle = Array.from({ length: 4 }, () => few.raw());
  await Promise.all(idle.map((c) => once(c.socket, 'connect')));
  const waiting = few.raw(get);
  await sleep(200);
  assert.equal(waiting.data, '');
  idle.forEach((c) => c.socket.destroy());
  assert.equal(responses(await waiting.end)[0].status, 200);
  const all = await Promise.all(Array.from({ length: 50 }, () => few.raw(get).end));
  assert.ok(all.every((d) => responses(d)[0].status === 200));
  assert.equal(await few.stop(), 0);
});

test('the server is well after all that too', async () => {
  await s.idle();
  assert.equal(await s.stop(), 0);
});
