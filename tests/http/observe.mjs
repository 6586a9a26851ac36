// /v1/weir: the state and its stream, steps, requests, usage; accounting on request; who may see what; traces.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { test, Server, until } from './lib.mjs';

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'weir-observe-'));
process.on('exit', () => fs.rmSync(dir, { recursive: true, force: true }));
const messages = [{ role: 'user', content: 'Hi' }];
const bearer = (key) => ({ authorization: `Bearer ${key}` });
const get = async (s, where, headers = {}) => {
  const r = await fetch(s.url + where, { headers });
  return { status: r.status, headers: r.headers, json: JSON.parse(await r.text()) };
};
const sum = (bytes) => bytes.weights + bytes.kv_read + bytes.kv_write + bytes.tier;

// Reads events of the stream until enough() is true of all that came.
async function frames(s, enough, headers = {}) {
  const r = await fetch(`${s.url}/v1/weir/stream`, { headers });
  assert.equal(r.status, 200);
  assert.match(r.headers.get('content-type'), /^text\/event-stream/);
  const reader = r.body.getReader(), decoder = new TextDecoder(), all = [];
  let text = '';
  while (!enough(all)) {
    const { done, value } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
    for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
      const m = text.slice(0, end).match(/^event: state\ndata: (.*)$/);
      assert.ok(m, text.slice(0, 200));
      all.push(JSON.parse(m[1]));
    }
  }
  await reader.cancel();
  return all;
}

const s = await Server.start('--ctx', '4096', '--price-per-bandwidth-hour', '3.5', '--currency', 'EUR');
const openai = s.client();

test('state: figures of the machine, the model, the pool, and a history', async () => {
  await openai.completions.create({ prompt: 'Hello', max_tokens: 50, ignore_eos: true });
  const { json: d, headers } = await until(async () => {
    const r = await get(s, '/v1/weir/state');
    return r.json.history.weights_bytes_per_s.some((v) => v > 0) && r;
  }, 'there is a history');
  assert.equal(headers.get('cache-control'), 'no-store');
  assert.equal(d.object, 'weir.state');
  assert.equal(d.health, 'ready');
  assert.ok(Math.abs(d.time_s - Date.now() / 1000) < 30);
  assert.ok(d.bandwidth.peak_bytes_per_s > 1e8 && d.compute.peak_flops_per_s > 1e8);
  assert.equal(d.bandwidth.source, 'counted');
  assert.ok(d.bandwidth.total_bytes.weights > 0 && d.bandwidth.total_bytes.kv_write > 0);
  assert.equal(d.kv.chunks.active + d.kv.chunks.cached + d.kv.chunks.free, d.kv.chunks.total);
  const cells = d.kv.map.cells.reduce((n, [, k]) => n + k, 0);
  assert.equal(cells, Math.ceil(d.kv.chunks.total / d.kv.map.chunks_per_cell));
  assert.ok(cells <= 2048);
  assert.equal(d.cost.currency, 'EUR');
  assert.ok(d.cost.money_total > 0);
  assert.ok(d.latency.ttft_p50_s > 0 && d.latency.itl_p95_s > 0);
  const columns = Object.entries(d.history).filter(([k]) => k !== 'interval_s');
  assert.ok(columns.length >= 14);
  for (const [name, c] of columns) assert.equal(c.length, d.history.time_s.length, name);
});

test('stream: frames while it runs, with the sequences in them', async () => {
  const abort = new AbortController();
  const running = [0, 1, 2].map(async () => {
    while (!abort.signal.aborted)
      await openai.completions.create({ prompt: 'Count: 1 2 3 4', max_tokens: 4000, ignore_eos: true }, { signal: abort.signal }).catch(() => {});
  });
  const owns = (f, owner) => f.kv.map.cells.some(([o]) => o === owner); // a cell shows one of those it stands for
  const shows = (f) => f.running.length === 3 && f.running.every((q, i) => q.length_tokens > 0 && owns(f, i));
  const all = await frames(s, (a) => a.length >= 3 && shows(a.at(-1)));
  abort.abort();
  await Promise.all(running);
  const last = all.at(-1);
  all.slice(1).forEach((f, i) => assert.ok(f.time_s > all[i].time_s));
  assert.ok(last.steps.total > all[0].steps.total);
  assert.equal(last.history, undefined);
  for (const q of last.running) {
    assert.match(q.id, /^cmpl-/);
    assert.equal(q.key, 'anonymous');
    assert.ok(['prefill', 'decode'].includes(q.phase));
    assert.ok(q.chunks > 0 && q.bytes_per_token > 0 && q.age_s > 0 && q.length_tokens > 0);
  }
  assert.ok(owns(last, -2), 'and some is free');
  await s.idle();
});

test('stream: sixteen listen, the seventeenth waits; they cost nothing when gone', async () => {
  const open = [];
  for (let i = 0; i < 16; i++) {
    const abort = new AbortController();
    open.push(abort);
    const r = await fetch(`${s.url}/v1/weir/stream`, { signal: abort.signal });
    assert.equal(r.status, 200);
    r.body.getReader().read().catch(() => {});
  }
  const refused = await get(s, '/v1/weir/stream');
  assert.equal(refused.status, 503);
  assert.equal(refused.json.error.code, 'too_many_listeners');
  assert.ok(Number(refused.headers.get('retry-after')) > 0);
  assert.equal((await s.metrics()).values.weir_stream_listeners, 16);
  open.forEach((a) => a.abort());
  await s.shows('nobody listens', (v) => v.weir_stream_listeners === 0);
});

test('usage: bytes of the request, in a whole answer, by header, and at a stream\'s end', async () => {
  const ask = { messages, max_tokens: 20, ignore_eos: true };
  const plain = await openai.chat.completions.create(ask);
  assert.equal(plain.usage.weir, undefined);
  const whole = await openai.chat.completions.create({ ...ask, weir: { usage: true } });
  const w = whole.usage.weir;
  assert.equal(w.memory_bytes, sum(w.bytes));
  assert.ok(w.bytes.weights > 0 && w.bytes.kv_read > 0 && w.bytes.kv_write > 0 && w.flops > 0);
  assert.ok(w.bandwidth_s > 0 && w.device_s > 0 && w.money > 0 && w.time.decode_s > 0 && w.time.prefill_s > 0);
  const header = await s.post('/v1/completions', { prompt: 'x', max_tokens: 2 }, { 'x-weir-usage': '1' });
  assert.ok(header.json.usage.weir.memory_bytes > 0);
  let last;
  for await (const chunk of await openai.chat.completions.create({ ...ask, stream: true, weir: { usage: true } }))
    last = chunk;
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, 20);
  assert.ok(last.usage.weir.memory_bytes > 0 && last.usage.weir.time.queued_s >= 0);
  for (const bad of [{ weir: 1 }, { weir: { usage: 'yes' } }]) {
    const r = await s.post('/v1/completions', { prompt: 'x', max_tokens: 1, ...bad });
    assert.equal(r.status, 400);
    assert.match(r.json.error.param, /^weir/);
  }
});

test('requests add up to what the device counted', async () => {
  await s.idle();
  const before = (await s.metrics()).values;
  const all = await Promise.all(Array.from({ length: 24 }, (_, i) => openai.completions.create({
    prompt: `Request number ${i % 5}: `.repeat(1 + i), max_tokens: 5 + i, n: 1 + i % 3, ignore_eos: true,
    weir: { usage: true } })));
  await s.idle();
  const after = (await s.metrics()).values;
  for (const c of ['weights', 'kv_read', 'kv_write', 'activations']) {
    const name = `weir_step_bytes_total{class="${c}"}`;
    assert.equal(all.reduce((n, r) => n + r.usage.weir.bytes[c], 0), after[name] - before[name], c);
  }
  assert.equal(all.reduce((n, r) => n + r.usage.weir.flops, 0), after.weir_step_flops_total - before.weir_step_flops_total);
});

test('requests: the list, one, its time line, and live ones', async () => {
  await s.post('/v1/completions', { prompt: 'Zero', max_tokens: 1 });
  const r = await s.post('/v1/completions', { prompt: 'One two three', max_tokens: 30, n: 2, ignore_eos: true });
  const id = r.headers.get('x-request-id');
  assert.match(r.headers.get('server-timing'), /queue;dur=[\d.]+;desc="\w+".*prefill;dur=.*decode;dur=.*bytes=\d+/);
  const { json: d } = await get(s, `/v1/weir/requests/${id}`);
  assert.equal(d.id, id);
  assert.equal(d.state, 'finished');
  assert.equal(d.reason, 'length');
  assert.equal(d.output_tokens, 60);
  assert.equal(d.memory_bytes, sum(d.bytes));
  assert.equal(d.choices.length, 2);
  for (const c of d.choices) {
    assert.equal(c.timeline[0].phase, 'queued');
    assert.ok(['step', 'slots', 'kv', 'bandwidth', 'prefill'].includes(c.timeline[0].reason));
    assert.ok(c.timeline.some((p) => p.phase === 'decode' && p.bytes > 0));
    c.timeline.slice(1).forEach((p, i) => assert.equal(p.begin_s, c.timeline[i].end_s));
  }
  assert.equal(d.choices.reduce((n, c) => n + c.timeline.reduce((m, p) => m + p.bytes, 0), 0), d.memory_bytes);
  const { json: list } = await get(s, '/v1/weir/requests?limit=2');
  assert.equal(list.data.length, 2);
  assert.equal(list.data[0].id, id);
  assert.equal(list.data[0].choices, undefined);
  assert.equal((await get(s, '/v1/weir/requests/cmpl-unknown')).status, 404);
  for (const bad of ['0', '513', 'x', '1e3', ''])
    assert.equal((await get(s, `/v1/weir/requests?limit=${bad}`)).status, 400, bad);

  const abort = new AbortController();
  const running = openai.completions.create({ prompt: 'Live', max_tokens: 4000, ignore_eos: true },
    { signal: abort.signal }).catch(() => {});
  const live = await until(async () => {
    const r = (await get(s, '/v1/weir/requests')).json.data[0];
    return r.id !== id && r.memory_bytes > 0 && r;
  }, 'it runs');
  assert.ok(['prefill', 'decode'].includes(live.state), live.state);
  const { json: now } = await get(s, `/v1/weir/requests/${live.id}`);
  assert.equal(now.id, live.id);
  const [choice] = now.choices;
  assert.equal(choice.state, now.state);
  assert.equal(choice.timeline[0].phase, 'queued');
  assert.equal(choice.timeline[1].phase, 'prefill');
  assert.equal(choice.timeline.reduce((a, x) => a + x.bytes, 0), now.memory_bytes);
  assert.ok(choice.timeline.at(-1).end_s <= now.total_s);
  assert.ok(now.time.prefill_s > 0);
  abort.abort();
  await running;
  await s.idle();
  const ended = (await get(s, `/v1/weir/requests/${live.id}`)).json;
  assert.equal(ended.state, 'cancelled');
  assert.ok(ended.memory_bytes >= live.memory_bytes);
});

test('steps: composition, predicted and counted', async () => {
  await s.post('/v1/completions', { prompt: 'x', max_tokens: 30, ignore_eos: true });
  const { json: d } = await get(s, '/v1/weir/steps?limit=500');
  assert.ok(d.data.length > 20);
  d.data.slice(1).forEach((x, i) => assert.ok(x.step < d.data[i].step));
  for (const x of d.data) {
    assert.equal(x.prefill_rows + x.decode_rows, x.rows);
    assert.ok(x.seconds > 0 && x.memory_bytes === sum(x.bytes));
    assert.ok(Math.abs(x.predicted_bytes - x.memory_bytes) / x.memory_bytes < 0.1);
  }
});

test('usage by hour and in all', async () => {
  await s.post('/v1/completions', { prompt: 'x', max_tokens: 1 });
  const { json: d } = await get(s, '/v1/weir/usage?bucket=hour');
  assert.equal(d.price_per_bandwidth_hour, 3.5);
  assert.equal(d.data.reduce((n, r) => n + r.requests, 0), d.total.requests);
  assert.ok(d.data.every((r) => r.begin_s % 3600 === 0 && r.key === 'anonymous'));
  assert.ok(Math.abs(d.total.money - d.total.bandwidth_hours * 3.5) < 1e-6);
  const { json: all } = await get(s, '/v1/weir/usage?bucket=total');
  assert.equal(all.data.length, 1);
  assert.equal(all.data[0].memory_bytes, d.total.memory_bytes);
  assert.equal((await get(s, '/v1/weir/usage?to=1000')).json.data.length, 0);
  for (const bad of ['bucket=week', 'from=x', 'to=-1', 'bucket=', `key=${'k'.repeat(100)}`])
    assert.ok((await get(s, `/v1/weir/usage?${bad}`)).status >= 400, bad);
});

test('traceparent: continued, begun, and strict', async () => {
  const ask = (headers) => s.post('/v1/completions', { prompt: 'x', max_tokens: 1 }, headers);
  const id = '4bf92f3577b34da6a3ce929d0e0e4736', parent = `00-${id}-00f067aa0ba902b7-01`;
  const r = await ask({ traceparent: parent, tracestate: 'rojo=00f067aa0ba902b7,congo=t61rcWkgMzE' });
  assert.match(r.headers.get('traceparent'), new RegExp(`^00-${id}-[0-9a-f]{16}-01$`));
  assert.notEqual(r.headers.get('traceparent'), parent);
  assert.equal(r.headers.get('tracestate'), 'rojo=00f067aa0ba902b7,congo=t61rcWkgMzE');
  const { json } = await get(s, `/v1/weir/requests/${r.headers.get('x-request-id')}`);
  assert.equal(json.trace_id, id);
  await until(() => s.log.includes(id), 'it is logged');
  for (const bad of [parent.toUpperCase(), parent.slice(1), `${parent}-x`, parent.replace('00-', 'ff-'),
    `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`, 'garbage', '']) {
    const other = await ask({ traceparent: bad, tracestate: 'a=b' });
    assert.equal(other.status, 200);
    assert.match(other.headers.get('traceparent'), /^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
    assert.ok(!other.headers.get('traceparent').includes(id), bad);
    assert.equal(other.headers.get('tracestate'), null);
  }
  const stream = await fetch(`${s.url}/v1/completions`, { method: 'POST', headers: { traceparent: parent,
    'content-type': 'application/json' }, body: JSON.stringify({ prompt: 'x', max_tokens: 3, stream: true }) });
  assert.match(stream.headers.get('traceparent'), new RegExp(id));
  assert.match(stream.headers.get('server-timing'), /prepare;dur=.*queue;dur=.*prefill;dur=/);
  await stream.text();
});

test('metrics: OpenMetrics on request, and the names that gateways read', async () => {
  await s.post('/v1/completions', { prompt: 'x', max_tokens: 4 });
  const open = await fetch(`${s.url}/metrics`, { headers: { accept:
    'application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1' } });
  assert.match(open.headers.get('content-type'), /^application\/openmetrics-text; version=1.0.0/);
  const text = await open.text();
  assert.ok(text.endsWith('# EOF\n'));
  assert.match(text, /^# TYPE vllm:prompt_tokens counter$/m);
  assert.match(text, /^vllm:prompt_tokens_total\{/m);
  assert.ok(!/^# TYPE \S+_total counter$/m.test(text));
  for (const accept of ['text/plain', '*/*', 'text/plain;q=1,application/openmetrics-text;q=0.5'])
    assert.match((await fetch(`${s.url}/metrics`, { headers: { accept } })).headers.get('content-type'), /^text\/plain/);
  const { text: plain } = await s.metrics();
  assert.match(plain, /^vllm:cache_config_info\{[^}]*block_size="\d+",num_gpu_blocks="\d+"[^}]*\} 1$/m);
  assert.match(plain, /^vllm:num_requests_waiting\{model_name="[^"]+",engine="0"\} \d+$/m);
  assert.match(plain, /^vllm:time_to_first_token_seconds_bucket\{[^}]*,le="1\.0"\} \d+$/m);
  for (const name of ['vllm:request_params_n', 'vllm:iteration_tokens_total', 'vllm:request_inference_time_seconds'])
    assert.match(plain, new RegExp(`^${name}_count\\{[^}]*\\} [1-9]`, 'm'));
  for (const name of ['weir_memory_bandwidth_peak_bytes_per_second\\{source="measured"\\}', 'weir_queue_requests\\{reason="kv"\\}',
    'weir_refusals_total\\{reason="late"\\}', 'weir_usage_memory_bytes_total\\{key="anonymous"\\}'])
    assert.match(plain, new RegExp(`^${name} \\d`, 'm'));
});

test('keys: each sees its own, an admin all; names stand for keys; usage survives kill -9', async () => {
  const file = path.join(dir, 'keys'), usage = path.join(dir, 'usage.db');
  fs.writeFileSync(file, 'sk-admin-secret admin name=ops\nsk-a-secret name=team-a\nsk-b-secret\n');
  const args = ['--ctx', '512', '--api-key-file', file, '--usage-file', usage, '--metrics-key', 'sk-scrape-secret'];
  let k = await Server.start(...args);
  const ask = (key, body = {}) => k.post('/v1/completions', { prompt: 'Hello', max_tokens: 5, ...body }, bearer(key));
  const a = await ask('sk-a-secret'), b = await ask('sk-b-secret');
  const id = a.headers.get('x-request-id');
  for (const where of ['state', 'stream', 'steps', 'requests', 'usage', `requests/${id}`]) {
    assert.equal((await fetch(`${k.url}/v1/weir/${where}`)).status, 401, where);
    assert.equal((await fetch(`${k.url}/v1/weir/${where}`, { headers: bearer('sk-scrape-secret') })).status, 401, where);
  }
  for (const where of ['state', 'stream', 'steps']) {
    const r = await get(k, `/v1/weir/${where}`, bearer('sk-a-secret'));
    assert.equal(r.status, 403);
    assert.equal(r.json.error.code, 'admin_required');
  }
  assert.equal((await get(k, `/v1/weir/requests/${id}`, bearer('sk-a-secret'))).json.key, 'team-a');
  assert.equal((await get(k, `/v1/weir/requests/${id}`, bearer('sk-b-secret'))).status, 404);
  assert.equal((await get(k, `/v1/weir/requests/${id}`, bearer('sk-admin-secret'))).status, 200);
  const own = (await get(k, '/v1/weir/requests', bearer('sk-b-secret'))).json.data;
  assert.deepEqual(own.map((r) => r.id), [b.headers.get('x-request-id')]);
  assert.equal((await get(k, '/v1/weir/requests', bearer('sk-admin-secret'))).json.data.length, 2);
  const mine = (await get(k, '/v1/weir/usage', bearer('sk-a-secret'))).json;
  assert.deepEqual(mine.data.map((r) => r.key), ['team-a']);
  assert.equal((await get(k, '/v1/weir/usage?key=ops', bearer('sk-a-secret'))).status, 403);
  const names = (await get(k, '/v1/weir/usage', bearer('sk-admin-secret'))).json.data.map((r) => r.key).sort();
  assert.equal(names.length, 2);
  assert.match(names[0], /^key-[0-9a-f]{12}$/);
  const [frame] = await frames(k, (all) => all.length, bearer('sk-admin-secret'));
  const scraped = await (await fetch(`${k.url}/metrics`, { headers: bearer('sk-scrape-secret') })).text();
  assert.equal((await fetch(`${k.url}/metrics`)).status, 401);
  assert.equal((await fetch(`${k.url}/metrics`, { headers: bearer('sk-a-secret') })).status, 401);
  assert.equal((await fetch(`${k.url}/metrics`, { headers: bearer('sk-admin-secret') })).status, 200);
  assert.match(scraped, /^weir_usage_requests_total\{key="team-a"\} 1$/m);
  assert.ok(!/secret/.test(scraped + JSON.stringify(frame) + k.log + k.out));
  assert.ok(!/secret/.test(fs.readFileSync(`/proc/${k.process.pid}/cmdline`, 'latin1')));

  const count = `import sqlite3; print(sqlite3.connect('file:${usage}?mode=ro', uri=True).execute('select sum(requests) from usage').fetchone()[0])`;
  await until(() => execFileSync('python3', ['-c', count], { encoding: 'utf8' }) === '2\n', 'it is written');
  await k.kill();
  k = await Server.start(...args);
  const kept = (await get(k, '/v1/weir/usage', bearer('sk-admin-secret'))).json;
  assert.deepEqual(kept.data.map((r) => r.requests), [1, 1]);
  await ask('sk-a-secret');
  assert.equal((await get(k, '/v1/weir/usage', bearer('sk-admin-secret'))).json.total.requests, 3);
  assert.equal(await k.stop(), 0);
  assert.ok(!/secret/.test(fs.readFileSync(usage, 'latin1')));
  await assert.rejects(Server.start('--api-key-file', file, '--usage-file', file), /not a usage database/);
});

test('the read bandwidth can be told', async () => {
  const k = await Server.start('--ctx', '512', '--read-bandwidth', '1.5G');
  const { bandwidth } = (await get(k, '/v1/weir/state')).json;
  assert.deepEqual([bandwidth.peak_bytes_per_s, bandwidth.peak_source], [1.5e9, 'configured']);
  assert.equal((await k.metrics()).values['weir_memory_bandwidth_peak_bytes_per_second{source="configured"}'], 1.5e9);
  const r = await k.post('/v1/completions', { prompt: 'x', max_tokens: 2, weir: { usage: true } });
  assert.ok(Math.abs(r.json.usage.weir.bandwidth_s * 1.5e9 / r.json.usage.weir.memory_bytes - 1) < 1e-3);
  assert.equal(await k.stop(), 0);
  for (const wrong of ['0', '30', 'fast', '30Q', '-1G', '1e9T'])
    await assert.rejects(Server.start('--read-bandwidth', wrong), /--read-bandwidth: '.*' is not a rate like 30G/);
});

test('metrics can be switched off; a lone key is an admin\'s', async () => {
  const k = await Server.start('--ctx', '512', '--no-metrics', '--api-key', 'sk-only');
  assert.equal((await fetch(`${k.url}/metrics`)).status, 404);
  assert.equal((await get(k, '/v1/weir/state', bearer('sk-only'))).status, 200);
  await k.stop();
});

test('the stream ends when the server drains', async () => {
  const k = await Server.start('--ctx', '512');
  const reader = (await fetch(`${k.url}/v1/weir/stream`)).body.getReader();
  assert.match(new TextDecoder().decode((await reader.read()).value), /^event: state/);
  const stopped = k.stop();
  while (!(await reader.read()).done);
  assert.equal(await stopped, 0);
});

test('spans reach a collector; a collector that is away harms nobody', async () => {
  const bodies = [], id = '4bf92f3577b34da6a3ce929d0e0e4736';
  let status = 200;
  const collector = http.createServer((q, r) => {
    let text = '';
    q.on('data', (d) => { text += d; });
    q.on('end', () => {
      if (status === 200) bodies.push({ url: q.url, type: q.headers['content-type'], json: JSON.parse(text) });
      r.writeHead(status, { 'content-type': 'application/json' });
      r.end('{}');
    });
  });
  await new Promise((done) => collector.listen(0, '127.0.0.1', done));
  const k = await Server.start('--ctx', '512', '--otlp-endpoint', `http://127.0.0.1:${collector.address().port}`);
  const ask = (headers) => k.post('/v1/chat/completions', { messages, max_tokens: 4 }, headers);
  const all = () => bodies.flatMap((b) => b.json.resourceSpans[0].scopeSpans[0].spans);
  const traced = await ask({ traceparent: `00-${id}-00f067aa0ba902b7-01` });
  await ask({ traceparent: `00-${id}-00f067aa0ba902b7-00` }); // not sampled
  const own = await ask({});
  assert.match(own.headers.get('traceparent'), /-01$/);
  await until(() => all().filter((x) => x.kind === 2).length === 2, 'they come');
  assert.ok(bodies.every((b) => b.url === '/v1/traces' && b.type === 'application/json'));
  const spans = all(), roots = spans.filter((x) => x.kind === 2);
  assert.equal(roots.length, 2);
  const [span] = roots.filter((x) => x.traceId === id);
  assert.equal(span.parentSpanId, '00f067aa0ba902b7');
  assert.equal(span.spanId, traced.headers.get('traceparent').split('-')[2]);
  assert.equal(span.name, 'chat');
  const attributes = Object.fromEntries(span.attributes.map((a) => [a.key, Object.values(a.value)[0]]));
  assert.equal(attributes['gen_ai.response.id'], traced.headers.get('x-request-id'));
  assert.equal(attributes['gen_ai.usage.output_tokens'], String(traced.json.usage.completion_tokens));
  assert.ok(Number(attributes['weir.memory_bytes']) > 0);
  const phases = spans.filter((x) => x.parentSpanId === span.spanId);
  assert.deepEqual(phases.map((x) => x.name), ['queued', 'prefill', 'decode']);
  for (const x of phases) {
    assert.ok(BigInt(x.startTimeUnixNano) >= BigInt(span.startTimeUnixNano));
    assert.ok(BigInt(x.endTimeUnixNano) <= BigInt(span.endTimeUnixNano) + 1_000_000n);
  }
  assert.equal(new Set(spans.map((x) => x.spanId)).size, spans.length);
  status = 500;
  const told = (n) => k.shows(`${n} are given up`, (v) => v['weir_traced_requests_total{result="sent"}'] === 2 &&
    v['weir_traced_requests_total{result="dropped"}'] === n);
  await ask({});
  await told(1);
  collector.close();
  collector.closeAllConnections();
  assert.equal((await ask({})).status, 200);
  await told(2);
  assert.equal(await k.stop(), 0);
  await assert.rejects(Server.start('--otlp-endpoint', 'ftp://x'), /--otlp-endpoint/);
});

export default s;
