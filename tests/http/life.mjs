// Keys, CORS, TLS, configuration, draining.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import { test, Server, request, responses, until } from './lib.mjs';

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'weir-http-'));
process.on('exit', () => fs.rmSync(dir, { recursive: true, force: true }));
const messages = [{ role: 'user', content: 'Hi' }];

test('API keys', async () => {
  const file = path.join(dir, 'keys');
  fs.writeFileSync(file, '# team\nsk-from-file\n\n');
  const s = await Server.start('--ctx', '512', '--api-key', 'sk-one', '--api-key', 'sk-two', '--api-key-file', file);
  for (const key of ['sk-one', 'sk-two', 'sk-from-file'])
    await s.client({ apiKey: key }).chat.completions.create({ messages, max_tokens: 1 });
  for (const key of ['wrong', 'sk-on', 'sk-onee', '# team'])
    await assert.rejects(s.client({ apiKey: key }).models.list(),
      (e) => e.constructor.name === 'AuthenticationError' && e.code === 'invalid_api_key');
  for (const where of ['/v1/completions', '/v1/chat/completions', '/tokenize', '/detokenize']) {
    const r = await s.post(where, {});
    assert.equal(r.status, 401);
    assert.equal(r.headers.get('www-authenticate'), 'Bearer');
  }
  for (const where of ['/health', '/ready', '/metrics', '/version'])
    assert.equal((await fetch(s.url + where)).status, 200);
  const { text } = await s.metrics();
  assert.ok(!/sk-/.test(text + s.log + s.out));
  assert.ok(!/sk-one/.test(fs.readFileSync(`/proc/${s.process.pid}/cmdline`, 'latin1')));
  await s.stop();
});

test('CORS: only the origins that were named', async () => {
  const s = await Server.start('--ctx', '512', '--cors-origin', 'https://app.example', '--cors-origin',
    'http://localhost:3000', '--api-key', 'k');
  const preflight = (origin) => fetch(`${s.url}/v1/chat/completions`, {
    method: 'OPTIONS',
    headers: { origin, 'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization, content-type, x-stainless-os' },
  });
  const yes = await preflight('https://app.example');
  assert.equal(yes.status, 204);
  assert.equal(yes.headers.get('access-control-allow-origin'), 'https://app.example');
  assert.match(yes.headers.get('access-control-allow-methods'), /POST/);
  assert.match(yes.headers.get('access-control-allow-headers'), /x-stainless-os/);
  assert.equal(yes.headers.get('vary'), 'Origin');
  assert.equal((await preflight('https://evil.example')).headers.get('access-control-allow-origin'), null);
  const real = await s.post('/v1/chat/completions', { messages, max_tokens: 1, stream: true },
    { origin: 'http://localhost:3000', authorization: 'Bearer k' });
  assert.equal(real.headers.get('access-control-allow-origin'), 'http://localhost:3000');
  const refused = await s.post('/v1/chat/completions', { messages }, { origin: 'https://app.example' });
  assert.equal(refused.status, 401);
  assert.equal(refused.headers.get('access-control-allow-origin'), 'https://app.example');
  await s.stop();
});

test('TLS: https, streams, disconnects, no old versions', async () => {
  const [cert, key] = [path.join(dir, 'cert.pem'), path.join(dir, 'key.pem')];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
    '-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=localhost'], { stdio: 'ignore' });
  const s = await Server.start('--ctx', '4096', '--tls-cert', cert, '--tls-key', key);
  assert.ok(s.url.startsWith('https:'));
  const agent = new https.Agent({ rejectUnauthorized: false, keepAlive: true });
  const call = (method, where, body) => new Promise((yes, no) => {
    const r = https.request(s.url + where, { method, agent, headers: body ? { 'content-length': body.length } : {} },
      (response) => {
        let data = '';
        response.on('data', (d) => { data += d; });
        response.on('end', () => yes({ status: response.statusCode, data }));
        response.on('error', no);
      });
    r.on('error', no);
    r.end(body);
  });
  for (let i = 0; i < 3; i++) {
    const r = await call('POST', '/v1/chat/completions', JSON.stringify({ messages, max_tokens: 20, stream: true,
      ignore_eos: true }));
    assert.equal(r.status, 200);
    assert.ok(r.data.endsWith('data: [DONE]\n\n'));
  }
  const big = await call('POST', '/tokenize', JSON.stringify({ prompt: 'word '.repeat(100_000) }));
  assert.ok(JSON.parse(big.data).count > 1000);
  assert.equal((await call('GET', '/nowhere')).status, 404);

  const socket = tls.connect({ port: s.port, rejectUnauthorized: false });
  await new Promise((done) => socket.on('secureConnect', done));
  socket.write('BREW / HTTP/1.1\r\n\r\n');
  let data = '';
  for await (const d of socket) data += d;
  assert.equal(responses(data)[0].status, 501);

  const gauge = async (name) => Number((await call('GET', '/metrics')).data.match(
    new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'm'))[1]);
  const leaving = tls.connect({ port: s.port, rejectUnauthorized: false });
  leaving.write(request('/v1/completions', { prompt: 'x', max_tokens: 4000, n: 8, ignore_eos: true }));
  await until(async () => await gauge('vllm:num_requests_running') === 8, 'it runs');
  leaving.destroy();
  await until(async () => await gauge('vllm:num_requests_running') === 0, 'it is gone');
  assert.equal(await gauge('weir_http_disconnects_total'), 1);
  await assert.rejects(new Promise((_, no) => {
    tls.connect({ port: s.port, rejectUnauthorized: false, maxVersion: 'TLSv1.1', minVersion: 'TLSv1',
      ciphers: 'DEFAULT@SECLEVEL=0' }).on('error', no);
  }));
  const plain = s.raw('GET /health HTTP/1.1\r\n\r\n'); // plain HTTP to the TLS port
  await plain.end;
  assert.equal((await call('GET', '/health')).status, 200);
  agent.destroy();
  assert.equal(await s.stop(), 0);
});

test('chat templates: variables arrive, failures are the client\'s', async () => {
  const file = path.join(dir, 'template.jinja');
  fs.writeFileSync(file, "{%- for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no role ' + m.role) }}" +
    "{% endif %}[{{ m.role }}]{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.x }}{% endif %}" +
    '{% endfor %}{% if tools %}{{ tools[0].function.name }}{% endif %}|{{ mood }}|{{ add_generation_prompt }}');
  const s = await Server.start('--ctx', '512', '--chat-template', file);
  const render = async (body) => {
    const r = await s.post('/tokenize', body);
    assert.equal(r.status, 200, r.text);
    return (await s.post('/detokenize', { tokens: r.json.tokens })).json.prompt;
  };
  const tools = [{ type: 'function', function: { name: 'look', parameters: {} } }];
  const conversation = [
    { role: 'developer', content: [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }] },
    { role: 'assistant', content: null, tool_calls: [{ id: '1', type: 'function',
      function: { name: 'look', arguments: '{"x": 5}' } }] },
  ];
  assert.equal(await render({ messages: conversation, tools, chat_template_kwargs: { mood: 'fine' } }),
    '[system]a\nb[assistant]None5look|fine|True');
  assert.equal(await render({ messages, tools, tool_choice: 'none', add_generation_prompt: false }), '[user]Hi||False');
  const r = await s.post('/v1/chat/completions', { messages: [{ role: 'bad', content: 'x' }] });
  assert.equal(r.status, 400);
  assert.match(r.json.error.message, /no role bad/);
  await s.stop();
});

test('config file, and flags that override it', async () => {
  const file = path.join(dir, 'weir.conf');
  fs.writeFileSync(file, '# a comment\nctx = 300\nserved-model-name = one\nserved-model-name = two\n' +
    'log-format = json\nno-prefix-cache = true\n');
  const s = await Server.start('--config', file, '--ctx', '400');
  const list = await s.client().models.list();
  assert.deepEqual(list.data.map((m) => m.id), ['one', 'two']);
  assert.equal(list.data[0].max_model_len, 400);
  await s.client().chat.completions.create({ model: 'two', messages, max_tokens: 1 });
  assert.equal(await s.stop(), 0);
  for (const line of s.log.trim().split('\n')) JSON.parse(line);
});

test('wrong usage is told', async () => {
  const file = path.join(dir, 'bad.conf');
  fs.writeFileSync(file, 'ctx = 300\nnonsense = 1\n');
  for (const [args, want] of [
    [['--nonsense'], /nonsense/], [['--ctx', 'x'], /ctx.*'x'/], [['--port', '70000'], /port/],
    [['--config', file], /bad.conf:2.*nonsense/], [['--kv-type', 'q3'], /kv-type.*q3/],
    [['--tls-cert', file], /tls-key/], [['--api-key-file', '/nonexistent'], /nonexistent/],
    [['--ctx', '100000', '--kv-chunks', '4'], /--ctx/],
  ])
    await assert.rejects(Server.start(...args), (e) => want.test(e.message));
});

test('SIGTERM: running requests finish, new ones get 503, exit 0', async () => {
  const s = await Server.start('--ctx', '4096');
  const idle = s.raw('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
  await idle.until((d) => d.includes('ok'));
  const long = { prompt: 'x', max_tokens: 4000, n: 4, ignore_eos: true }; // longer than what follows takes
  const stream = s.raw(request('/v1/completions', { ...long, stream: true }));
  const whole = s.raw(request('/v1/completions', long));
  await stream.until((d) => d.includes('data: '));
  await s.running(8);
  s.process.kill('SIGTERM');
  await idle.end; // idle connections are closed
  const late = await s.post('/v1/completions', { prompt: 'x' });
  assert.equal(late.status, 503);
  assert.equal(late.headers.get('connection'), 'close');
  assert.equal((await fetch(`${s.url}/ready`)).status, 503);
  assert.equal((await fetch(`${s.url}/health`)).status, 200);
  const [a] = responses(await stream.end), [b] = responses(await whole.end);
  assert.ok(a.body.endsWith('data: [DONE]\n\n'));
  assert.equal(JSON.parse(b.body).usage.completion_tokens, 16_000);
  assert.deepEqual(await s.exited, { code: 0, signal: null });
});

test('SIGTERM twice: exits now', async () => {
  const s = await Server.start('--ctx', '4096');
  const stream = s.raw(request('/v1/completions', { prompt: 'x', max_tokens: 4000, n: 8, ignore_eos: true, stream: true }));
  await stream.until((d) => d.includes('data: '));
  s.process.kill('SIGTERM');
  await until(() => s.log.includes('draining'), 'it drains');
  s.process.kill('SIGTERM');
  assert.equal((await s.exited).code, 143);
});

test('drain timeout: what is left is cancelled and told so', async () => {
  const s = await Server.start('--ctx', '4096', '--drain-timeout-s', '0.3');
  const body = { prompt: 'x', max_tokens: 4000, ignore_eos: true, n: 8 };
  const stream = s.raw(request('/v1/completions', { ...body, stream: true }));
  const whole = s.raw(request('/v1/completions', body));
  await stream.until((d) => d.includes('data: '));
  await s.running(16);
  s.process.kill('SIGTERM');
  const [a] = responses(await stream.end), [b] = responses(await whole.end);
  const last = a.body.trimEnd().split('\n\n').at(-1);
  assert.equal(JSON.parse(last.slice(6)).error.code, 'shutting_down');
  assert.equal(b.status, 503);
  assert.equal((await s.exited).code, 0);
});
