// What is refused, with which status, naming which field.
import assert from 'node:assert/strict';
import { test, Server, request, responses } from './lib.mjs';

const s = await Server.start('--ctx', '256', '--max-body-bytes', '100K', '--max-header-bytes', '8K');
const openai = s.client();
const messages = [{ role: 'user', content: 'Hi' }];

function isError(r, status, param, code) {
  assert.equal(r.status, status, r.text);
  assert.equal(r.headers.get('content-type'), 'application/json');
  assert.deepEqual(Object.keys(r.json.error), ['message', 'type', 'param', 'code']);
  assert.equal(r.json.error.param, param, r.text);
  assert.ok(r.json.error.message.length > 5);
  if (code) assert.equal(r.json.error.code, code);
}

const bad = {
  temperature: [-1, 2.5, 'hot', [1]], top_p: [-0.1, 1.1], top_k: [-2, 1.5], min_p: [2], n: [0, 17, '1'],
  max_tokens: [0, -1, 'x'], max_completion_tokens: [0], min_tokens: [-1], presence_penalty: [3],
  frequency_penalty: [-3], repetition_penalty: [0], seed: ['x', 1.5], stop: [5, [''], [1], Array(17).fill('a')],
  logit_bias: [5, { x: 1 }, { 0: 101 }, { 99999999: 1 }], stream: ['yes'], stream_options: [{ include_usage: true }],
  tools: [5, [{}]], tool_choice: ['required'], response_format: [{ type: 'json_object' }, 'json'],
  top_logprobs: [21, 5], logprobs: [3], user: [5], guided_json: [{ type: 'object' }], model: [5],
  chat_template_kwargs: [[]], ignore_eos: ['x'],
};
for (const [field, values] of Object.entries(bad)) {
  test(`refused by name: ${field}`, async () => {
    for (const value of values) {
      const r = await s.post('/v1/chat/completions', { messages, [field]: value });
      assert.equal(r.status, 400, `${JSON.stringify(value)}: ${r.text}`);
      assert.equal(r.json.error.type, 'invalid_request_error');
      assert.ok(r.json.error.param?.startsWith(field), r.text);
      assert.ok(r.json.error.message.includes(field), r.text);
    }
  });
}

test('refused by name: messages', async () => {
  const check = async (value, param) => isError(await s.post('/v1/chat/completions', { messages: value }), 400, param);
  await check(undefined, 'messages');
  await check('hi', 'messages');
  await check([], 'messages');
  await check([{ content: 'x' }], 'messages[0].role');
  await check([{ role: 'user', content: 3 }], 'messages[0].content');
  await check([{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'x' } }] }],
    'messages[0].content[0].type');
});

test('refused by name: completions only', async () => {
  const check = async (more, param) =>
    isError(await s.post('/v1/completions', { prompt: 'x', ...more }), 400, param);
  await check({ prompt: undefined }, 'prompt');
  await check({ prompt: [] }, 'prompt');
  await check({ prompt: ['a', 5] }, 'prompt');
  await check({ prompt: [99999999] }, 'prompt');
  await check({ suffix: 'y' }, 'suffix');
  await check({ best_of: 3, n: 2 }, 'best_of');
  await check({ logprobs: 21 }, 'logprobs');
  await check({ max_tokens: 4, min_tokens: 5 }, 'min_tokens');
  await check({ max_tokens: 4, max_completion_tokens: 5 }, 'max_tokens');
  await check({ prompt: Array(128).fill('a'), n: 2 }, 'n');
});

test('the client raises BadRequestError', async () => {
  await assert.rejects(openai.chat.completions.create({ messages, temperature: 9 }),
    (e) => e.constructor.name === 'BadRequestError' && e.status === 400 && e.param === 'temperature');
});

test('context_length_exceeded, with counts', async () => {
  const r = await s.post('/v1/chat/completions', { messages: [{ role: 'user', content: 'word '.repeat(2000) }] });
  isError(r, 400, 'messages', 'context_length_exceeded');
  const { count } = (await s.post('/tokenize', { messages: [{ role: 'user', content: 'word '.repeat(2000) }] })).json;
  assert.ok(r.json.error.message.includes(String(count)) && r.json.error.message.includes('256'), r.text);
  isError(await s.post('/v1/completions', { prompt: 'x', max_tokens: 300 }), 400, 'max_tokens',
    'context_length_exceeded');
});

test('bodies that are no JSON object', async () => {
  for (const body of ['', '{', '[]', '"x"', '{"messages":[}', 'null', '\u0000', '{"a":1}}'])
    isError(await s.post('/v1/chat/completions', body), 400, null, 'invalid_json');
  isError(await s.post('/v1/chat/completions', `{"messages":${'['.repeat(5000)}${']'.repeat(5000)}}`), 400, null,
    'invalid_json');
  const raw = s.raw(Buffer.concat([
    Buffer.from('POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 14\r\n\r\n{"prompt":"'),
    Buffer.from([0xff]), Buffer.from('"}')]));
  assert.equal(responses(await raw.end)[0].status, 400);
});

test('404, 405 with Allow, HEAD, OPTIONS', async () => {
  isError(await s.post('/v1/nothing', {}), 404, null);
  const get = await fetch(`${s.url}/v1/completions`);
  assert.equal(get.status, 405);
  assert.match(get.headers.get('allow'), /POST/);
  assert.equal((await get.json()).error.code, 'method_not_allowed');
  const put = await fetch(`${s.url}/health`, { method: 'PUT', body: 'x' });
  assert.equal(put.status, 405);
  assert.match(put.headers.get('allow'), /GET/);
  const head = await fetch(`${s.url}/health`, { method: 'HEAD' });
  assert.equal(head.status, 200);
  assert.equal(await head.text(), '');
  const options = await fetch(`${s.url}/v1/models`, { method: 'OPTIONS' });
  assert.equal(options.status, 204);
});

test('missing or odd content types are accepted', async () => {
  for (const type of ['', 'Content-Type: text/plain\r\n']) {
    const body = JSON.stringify({ prompt: 'x', max_tokens: 1 });
    const raw = s.raw(`POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${type}` +
      `Content-Length: ${body.length}\r\n\r\n${body}`);
    assert.equal(responses(await raw.end)[0].status, 200);
  }
});

// Answers that evhttp would make itself; all must be JSON, and close the connection.
async function rawError(text, status) {
  const [r] = responses(await s.raw(text).end);
  assert.equal(r.status, status);
  assert.equal(r.headers['content-type'], 'application/json');
  assert.equal(r.headers.connection, 'close');
  assert.ok(JSON.parse(r.body).error.message);
}

test('413: body too large, by length and in chunks', async () => {
  const big = 'x'.repeat(200_000);
  isError(await s.post('/v1/completions', { prompt: big }), 413, null);
  await rawError(`POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n` +
    `10000\r\n${big.slice(0, 65536)}\r\n10000\r\n${big.slice(0, 65536)}\r\n0\r\n\r\n`, 413);
  await rawError(`POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n`, 413);
  await rawError('POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', 413);
});

test('431: headers too large', async () => {
  await rawError(`GET /health HTTP/1.1\r\nHost: x\r\nX-Big: ${'y'.repeat(10_000)}\r\n\r\n`, 431);
  await rawError(`GET /${'y'.repeat(10_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, 431);
  await rawError(`GET /health HTTP/1.1\r\n${'X-A: b\r\n'.repeat(2000)}\r\n`, 431);
});

test('malformed requests', async () => {
  await rawError('BREW /coffee HTTP/1.1\r\nHost: x\r\n\r\n', 501);
  await rawError('complete garbage that is no HTTP\r\n\r\n', 400);
  await rawError('GET /health HTTP/9.9\r\n\r\n', 400);
  await rawError('GET /health HTTP/1.1\r\nno colon here\r\n\r\n', 400);
  await rawError('POST /tokenize HTTP/1.1\r\nContent-Length: -5\r\n\r\n', 400);
  await rawError('POST /tokenize HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n', 413);
});

test('requests of ambiguous length are refused', async () => {
  await rawError('POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n' +
    '0\r\n\r\n', 400);
  await rawError('POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}', 400);
});

test('chunked and Expect: 100-continue bodies', async () => {
  const body = JSON.stringify({ prompt: 'x', max_tokens: 1 });
  const chunked = s.raw('POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked' +
    `\r\n\r\n${[...body].map((c) => `1\r\n${c}\r\n`).join('')}0\r\n\r\n`);
  assert.equal(responses(await chunked.end)[0].status, 200);
  const expect = s.raw('POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n' +
    `Content-Length: ${body.length}\r\n\r\n`);
  await expect.until((d) => d.includes('100 Continue\r\n\r\n'));
  expect.data = '';
  expect.socket.write(body);
  assert.equal(responses(await expect.end)[0].status, 200);
});

test('the server is well after all that', async () => {
  await s.idle();
  assert.equal(responses(await (async () => {
    const raw = s.raw(request('/v1/completions', { prompt: 'x', max_tokens: 1 }, 'Connection: close\r\n'));
    return raw.end;
  })())[0].status, 200);
  assert.equal(await s.stop(), 0);
});
