// What a client of the API sees when all goes well.
import assert from 'node:assert/strict';
import { test, Server } from './lib.mjs';

const s = await Server.start('--ctx', '1024', '--max-running', '40');
const openai = s.client();
const messages = [{ role: 'user', content: 'Hello! What colour is the sky?' }];
const greedy = { temperature: 0, max_tokens: 24, ignore_eos: true };

test('models: list, retrieve, unknown', async () => {
  const list = await openai.models.list();
  assert.equal(list.data.length, 1);
  const one = await openai.models.retrieve(list.data[0].id);
  assert.equal(one.object, 'model');
  await assert.rejects(openai.models.retrieve('nope'), (e) => e.status === 404 && e.code === 'model_not_found');
  await assert.rejects(openai.chat.completions.create({ model: 'nope', messages }),
    (e) => e instanceof Error && e.status === 404 && e.code === 'model_not_found' && e.param === 'model');
});

test('health, ready, version', async () => {
  for (const where of ['/health', '/ready', '/version']) {
    const r = await fetch(s.url + where);
    assert.equal(r.status, 200);
    assert.equal(r.headers.get('content-type'), 'application/json');
    await r.json();
  }
});

test('chat: whole answer', async () => {
  const r = await openai.chat.completions.create({ messages, ...greedy });
  assert.match(r.id, /^chatcmpl-[0-9a-f]{24}$/);
  assert.equal(r.object, 'chat.completion');
  assert.ok(Math.abs(r.created - Date.now() / 1000) < 60);
  assert.ok(r.model && r.system_fingerprint);
  assert.equal(r.choices.length, 1);
  const [c] = r.choices;
  assert.equal(c.message.role, 'assistant');
  assert.equal(typeof c.message.content, 'string');
  assert.equal(c.finish_reason, 'length');
  assert.equal(c.logprobs, null);
  assert.equal(r.usage.completion_tokens, 24);
  assert.equal(r.usage.total_tokens, r.usage.prompt_tokens + 24);
  assert.ok(r.usage.prompt_tokens_details.cached_tokens >= 0);
  assert.equal(r._request_id, r.id);
});

test('chat: stream equals whole answer', async () => {
  const whole = await openai.chat.completions.create({ messages, ...greedy });
  const stream = await openai.chat.completions.create({
    messages, ...greedy, stream: true, stream_options: { include_usage: true },
  });
  const chunks = [];
  for await (const c of stream) chunks.push(c);
  assert.deepEqual(chunks[0].choices[0].delta, { role: 'assistant', content: '' });
  const usage = chunks.pop();
  assert.deepEqual(usage.choices, []);
  assert.equal(usage.usage.completion_tokens, whole.usage.completion_tokens);
  assert.equal(usage.usage.prompt_tokens, whole.usage.prompt_tokens);
  const last = chunks.at(-1);
  assert.equal(last.choices[0].finish_reason, 'length');
  assert.deepEqual(last.choices[0].delta, {});
  assert.ok(chunks.slice(0, -1).every((c) => c.choices[0].finish_reason === null && c.usage === null));
  assert.ok(chunks.every((c) => c.object === 'chat.completion.chunk' && c.id === chunks[0].id));
  assert.equal(chunks.map((c) => c.choices[0].delta.content ?? '').join(''), whole.choices[0].message.content);
});

test('chat: wire format of a stream', async () => {
  const r = await s.post('/v1/chat/completions', { messages, max_tokens: 2, stream: true });
  assert.match(r.headers.get('content-type'), /^text\/event-stream/);
  const events = r.text.split('\n\n');
  assert.equal(events.pop(), '');
  assert.equal(events.pop(), 'data: [DONE]');
  for (const e of events) {
    assert.ok(e.startsWith('data: {'));
    assert.equal('usage' in JSON.parse(e.slice(6)), false);
  }
});

test('chat: roles, parts, tools, template variables', async () => {
  const r = await openai.chat.completions.create({
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: [{ type: 'text', text: 'Hello' }, { type: 'text', text: 'there' }] },
    ],
    tools: [{ type: 'function', function: { name: 'f', parameters: { type: 'object', properties: {} } } }],
    tool_choice: 'none', chat_template_kwargs: { enable_thinking: false }, max_completion_tokens: 3,
    user: 'u', metadata: { a: 'b' }, store: false, parallel_tool_calls: false, service_tier: 'auto',
  });
  assert.equal(r.choices.length, 1);
});

test('completions: whole and stream', async () => {
  const whole = await openai.completions.create({ prompt: 'Once upon a time', ...greedy });
  assert.match(whole.id, /^cmpl-/);
  assert.equal(whole.object, 'text_completion');
  assert.equal(whole.choices[0].finish_reason, 'length');
  let text = '', finish = null;
  for await (const c of await openai.completions.create({ prompt: 'Once upon a time', ...greedy, stream: true })) {
    text += c.choices[0].text;
    finish = c.choices[0].finish_reason ?? finish;
  }
  assert.equal(text, whole.choices[0].text);
  assert.equal(finish, 'length');
});

test('scheduling: service tiers, targets', async () => {
  const messages = [{ role: 'user', content: 'Hello' }];
  for (const [asked, given] of [['auto', 'default'], ['flex', 'flex'], ['priority', 'priority']]) {
    const r = await openai.chat.completions.create({ messages, max_tokens: 2, service_tier: asked, ttft_limit_s: 60 });
    assert.equal(r.service_tier, given);
    for await (const c of await openai.chat.completions.create({ messages, max_tokens: 2, service_tier: asked, stream: true }))
      assert.equal(c.service_tier, given);
  }
  assert.equal('service_tier' in await openai.chat.completions.create({ messages, max_tokens: 2 }), false);
  await assert.rejects(openai.chat.completions.create({ messages, max_tokens: 2, itl_target_s: 1e-6 }),
    (e) => e.status === 400 && e.param === 'itl_target_s');
});

test('completions: 16 tokens unless told', async () => {
  const r = await openai.completions.create({ prompt: 'Hello', ignore_eos: true });
  assert.equal(r.usage.completion_tokens, 16);
});

test('completions: all forms of prompt', async () => {
  const tokens = async (prompt) => (await s.post('/tokenize', { prompt })).json.tokens;
  const [a, b] = [await tokens('The sky is'), await tokens('Two and two')];
  const texts = async (prompt) => {
    const r = await openai.completions.create({ prompt, ...greedy });
    return { texts: r.choices.map((c) => c.text), index: r.choices.map((c) => c.index), usage: r.usage };
  };
  const strings = await texts(['The sky is', 'Two and two']);
  assert.deepEqual(strings.index, [0, 1]);
  assert.equal(strings.usage.prompt_tokens, a.length + b.length);
  assert.equal(strings.usage.completion_tokens, 48);
  assert.deepEqual((await texts([a, b])).texts, strings.texts);
  assert.deepEqual((await texts(a)).texts, [strings.texts[0]]);
  assert.deepEqual((await texts('The sky is')).texts, [strings.texts[0]]);
});

test('n: choices differ, and repeat with the seed', async () => {
  const ask = async () => (await openai.chat.completions.create({
    messages, n: 4, seed: 7, temperature: 1.5, max_tokens: 24, ignore_eos: true,
  })).choices;
  const [a, b] = [await ask(), await ask()];
  assert.deepEqual(a.map((c) => c.index), [0, 1, 2, 3]);
  assert.deepEqual(a.map((c) => c.message.content), b.map((c) => c.message.content));
  assert.ok(new Set(a.map((c) => c.message.content)).size > 1);
  const alone = await openai.chat.completions.create({
    messages, seed: 7, temperature: 1.5, max_tokens: 24, ignore_eos: true,
  });
  assert.equal(alone.choices[0].message.content, a[0].message.content);
});

test('n: streamed choices are told apart by index', async () => {
  const body = { messages, n: 3, seed: 3, temperature: 1.2, max_tokens: 12, ignore_eos: true };
  const whole = await openai.chat.completions.create(body);
  const texts = ['', '', ''], finish = [];
  for await (const c of await openai.chat.completions.create({ ...body, stream: true })) {
    const [choice] = c.choices;
    texts[choice.index] += choice.delta.content ?? '';
    if (choice.finish_reason) finish.push(choice.index);
  }
  assert.deepEqual(texts, whole.choices.map((c) => c.message.content));
  assert.deepEqual(finish.sort(), [0, 1, 2]);
});

test('seed: the same text, whatever else runs', async () => {
  const body = { prompt: 'A story:', seed: 42, temperature: 1, max_tokens: 32, ignore_eos: true };
  const alone = (await openai.completions.create(body)).choices[0].text;
  const others = Array.from({ length: 6 }, (_, i) =>
    openai.completions.create({ ...body, prompt: 'Other '.repeat(i + 1), seed: i }));
  const among = await openai.completions.create(body);
  await Promise.all(others);
  assert.equal(among.choices[0].text, alone);
  const different = await openai.completions.create({ ...body, seed: 43 });
  assert.notEqual(different.choices[0].text, alone);
});

test('stop: strings end the text, across token borders', async () => {
  const whole = (await openai.completions.create({ prompt: 'Hello', ...greedy, max_tokens: 48 })).choices[0].text;
  assert.ok(whole.length > 12, `need some text, got ${JSON.stringify(whole)}`);
  for (const at of [3, 5, 8]) {
    const stop = whole.slice(at, at + 4);
    const want = whole.slice(0, whole.indexOf(stop));
    for (const value of [stop, ['\u0007never', stop]]) {
      const r = await openai.completions.create({ prompt: 'Hello', ...greedy, max_tokens: 48, stop: value });
      assert.equal(r.choices[0].text, want);
      assert.equal(r.choices[0].finish_reason, 'stop');
    }
    let text = '';
    const stream = await openai.completions.create({ prompt: 'Hello', ...greedy, max_tokens: 48, stop, stream: true });
    for await (const c of stream) text += c.choices[0].text;
    assert.equal(text, want);
    const kept = await openai.completions.create({
      prompt: 'Hello', ...greedy, max_tokens: 48, stop, include_stop_str_in_output: true,
    });
    assert.equal(kept.choices[0].text, want + stop);
  }
});

test('echo: the prompt comes first', async () => {
  const plain = await openai.completions.create({ prompt: 'The sky is', ...greedy, max_tokens: 4 });
  const echo = await openai.completions.create({ prompt: 'The sky is', ...greedy, max_tokens: 4, echo: true });
  assert.equal(echo.choices[0].text, `The sky is${plain.choices[0].text}`);
  assert.equal(echo.usage.completion_tokens, 4);
});

test('logprobs of completions', async () => {
  const r = await openai.completions.create({ prompt: 'The sky is', ...greedy, max_tokens: 6, logprobs: 3 });
  const { text, logprobs: l } = r.choices[0];
  for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset']) assert.equal(l[key].length, 6);
  assert.equal(l.text_offset[0], 0);
  for (let i = 0; i < 6; i++) {
    assert.ok(l.token_logprobs[i] <= 0);
    const best = Object.values(l.top_logprobs[i]).sort((a, b) => b - a);
    assert.ok(best.length >= 1 && best.length <= 4);
    assert.equal(l.token_logprobs[i], best[0]); // greedy takes the best
    assert.ok(best.reduce((sum, v) => sum + Math.exp(v), 0) < 1.001);
    if (!l.tokens[i].startsWith('bytes:') && !l.tokens[i].includes('\ufffd'))
      assert.equal([...text].slice(l.text_offset[i]).join('').startsWith(l.tokens[i]), true);
  }
});

test('logprobs of an echoed prompt', async () => {
  const tokens = (await s.post('/tokenize', { prompt: 'The sky is' })).json.tokens.length;
  const r = await openai.completions.create({ prompt: 'The sky is', max_tokens: 0, echo: true, logprobs: 1 });
  const l = r.choices[0].logprobs;
  assert.equal(r.choices[0].text, 'The sky is');
  assert.equal(l.tokens.length, tokens);
  assert.equal(l.token_logprobs[0], null);
  assert.ok(l.token_logprobs.slice(1).every((v) => v < 0));
  assert.equal(r.usage.completion_tokens, 0);
  // They are the same without a prefix in the cache.
  const again = await openai.completions.create({
    prompt: 'The sky is', max_tokens: 0, echo: true, logprobs: 1, cache_salt: 'other',
  });
  again.choices[0].logprobs.token_logprobs.slice(1).forEach((v, i) =>
    assert.ok(Math.abs(v - l.token_logprobs[i + 1]) < 1e-3));
});

test('logprobs of chat', async () => {
  const body = { messages, ...greedy, max_tokens: 5, logprobs: true, top_logprobs: 2 };
  const r = await openai.chat.completions.create(body);
  const { content } = r.choices[0].logprobs;
  assert.equal(content.length, 5);
  for (const t of content) {
    assert.equal(t.top_logprobs.length, 2);
    assert.equal(t.top_logprobs[0].logprob, t.logprob);
    assert.ok(t.top_logprobs[1].logprob <= t.logprob);
    assert.ok(Array.isArray(t.bytes));
  }
  const bytes = Buffer.from(content.flatMap((t) => t.bytes));
  assert.equal(bytes.toString('utf8').startsWith(r.choices[0].message.content.replace(/\ufffd+$/, '')), true);
  const streamed = [];
  for await (const c of await openai.chat.completions.create({ ...body, stream: true }))
    streamed.push(...(c.choices[0].logprobs?.content ?? []));
  assert.deepEqual(streamed, content);
});

test('logit_bias forces and forbids', async () => {
  const { tokens } = (await s.post('/tokenize', { prompt: 'x', add_special_tokens: false })).json;
  const id = tokens.at(-1);
  const forced = await openai.completions.create({
    prompt: 'Hello', temperature: 1, max_tokens: 8, ignore_eos: true, logprobs: 0, logit_bias: { [id]: 100 },
  });
  assert.equal(new Set(forced.choices[0].logprobs.tokens).size, 1);
  const free = await openai.completions.create({ prompt: 'Hello', ...greedy, max_tokens: 1, logprobs: 0 });
  const first = (await s.post('/tokenize', {
    prompt: free.choices[0].logprobs.tokens[0], add_special_tokens: false,
  })).json.tokens;
  if (first.length === 1) {
    const banned = await openai.completions.create({
      prompt: 'Hello', ...greedy, max_tokens: 1, logprobs: 0, logit_bias: { [first[0]]: -100 },
    });
    assert.notEqual(banned.choices[0].logprobs.tokens[0], free.choices[0].logprobs.tokens[0]);
  }
});

test('usage: cached tokens on the second time', async () => {
  const prompt = 'The quick brown fox jumps over the lazy dog. '.repeat(12);
  await openai.completions.create({ prompt, max_tokens: 1 });
  const r = await openai.completions.create({ prompt, max_tokens: 1 });
  const cached = r.usage.prompt_tokens_details.cached_tokens;
  assert.ok(cached > 0 && cached < r.usage.prompt_tokens, `${cached} of ${r.usage.prompt_tokens}`);
  const salted = await openai.completions.create({ prompt, max_tokens: 1, cache_salt: 'mine' });
  assert.equal(salted.usage.prompt_tokens_details.cached_tokens, 0);
});

test('tokenize and detokenize round trip', async () => {
  for (const text of ['Hello, world!', '  two  spaces\n\ttab', 'naïve café – 日本語 🙂 \u0000 end', '']) {
    const t = (await s.post('/tokenize', { prompt: text, add_special_tokens: false, return_token_strs: true })).json;
    assert.equal(t.count, t.tokens.length);
    assert.equal(t.token_strs.length, t.count);
    assert.equal(t.max_model_len, 1024);
    const back = (await s.post('/detokenize', { tokens: t.tokens })).json;
    assert.equal(back.prompt, text);
  }
  const chat = (await s.post('/tokenize', { messages })).json;
  const r = await openai.chat.completions.create({ messages, max_tokens: 1 });
  assert.equal(chat.count, r.usage.prompt_tokens);
});

test('32 streams at once, each with its own text', async () => {
  const body = (i) => ({ prompt: `Count from ${i}:`, ...greedy });
  const alone = [];
  for (const i of [0, 15, 31]) alone.push((await openai.completions.create(body(i))).choices[0].text);
  const texts = await Promise.all(Array.from({ length: 32 }, async (_, i) => {
    let text = '';
    for await (const c of await openai.completions.create({ ...body(i), stream: true })) text += c.choices[0].text;
    return text;
  }));
  assert.deepEqual([texts[0], texts[15], texts[31]], alone);
  assert.ok(texts.every((t) => t.length));
});

test('metrics: Prometheus text with vLLM names that add up', async () => {
  await s.idle();
  const before = (await s.metrics()).values;
  await openai.completions.create({ prompt: 'Hello there', max_tokens: 10, ignore_eos: true });
  await s.idle();
  const { text, values: v } = await s.metrics();
  const seen = new Set();
  for (const line of text.trimEnd().split('\n')) {
    const type = line.match(/^# TYPE (\S+) (counter|gauge|histogram)$/);
    if (type) {
      assert.ok(!seen.has(type[1]), `twice: ${type[1]}`);
      seen.add(type[1]);
    } else if (!line.startsWith('# HELP ')) {
      assert.match(line, /^[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-z_]+="[^"\\\n]*",?)+\})? [0-9.e+-]+$/);
    }
  }
  for (const name of ['vllm:num_requests_running', 'vllm:num_requests_waiting', 'vllm:kv_cache_usage_perc',
    'vllm:prompt_tokens_total', 'vllm:generation_tokens_total', 'vllm:time_to_first_token_seconds',
    'vllm:inter_token_latency_seconds', 'vllm:e2e_request_latency_seconds', 'vllm:request_success_total',
    'vllm:prefix_cache_hits_total', 'vllm:cache_config_info', 'weir_step_bytes_total'])
    assert.ok(seen.has(name), name);
  const grown = (name) => v[name] - before[name];
  assert.equal(grown('vllm:generation_tokens_total'), 10);
  assert.equal(grown('vllm:time_to_first_token_seconds_count'), 1);
  assert.equal(grown('vllm:inter_token_latency_seconds_count'), 9);
  assert.equal(grown('vllm:request_success_total{finished_reason="length"}'), 1);
  assert.equal(v['vllm:e2e_request_latency_seconds_bucket{le="+Inf"}'], v['vllm:e2e_request_latency_seconds_count']);
  assert.ok(grown('weir_steps_total') > 0 && grown('weir_step_bytes_total{class="weights"}') > 0);
});

export default s;
