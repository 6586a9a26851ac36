import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { root, runAll, Server, sleep, test, until } from '../http/lib.mjs';

const deploy = path.join(root, 'deploy');
const tool = (name) => path.join(process.env.PROMETHEUS_BIN, name);
const promtool = (...args) => execFileSync(tool('promtool'), args, { encoding: 'utf8', cwd: path.join(deploy, 'prometheus') });
const files = (dir) => readdirSync(path.join(deploy, dir)).map((f) => path.join(deploy, dir, f));
const dashboard = JSON.parse(readFileSync(path.join(deploy, 'grafana/weir.json'), 'utf8'));
const panels = dashboard.panels.filter((p) => p.targets);

// A query as Grafana would send it.
const fill = (q) => q.replace(/\$job|\$instance/g, '.*').replace(/\$__rate_interval/g, '5s');

// Enough of everything that series exist: long and short prompts, a refusal, a cancelled request.
async function work(s) {
  const ask = (body) => s.post('/v1/completions', { max_tokens: 40, ignore_eos: true, ...body });
  await Promise.all([1, 2, 3, 4, 5, 6].map((i) => ask({ prompt: 'count the bytes '.repeat(8 * i) })));
  await ask({ prompt: 'a '.repeat(9000) });
}

test('deploy: rules are valid and do what their tests say', () => {
  promtool('check', 'rules', 'weir-rules.yml');
  promtool('check', 'config', 'prometheus.yml');
  assert.match(promtool('test', 'rules', 'weir-rules-test.yml'), /SUCCESS/);
  const rules = readFileSync(path.join(deploy, 'prometheus/weir-rules.yml'), 'utf8');
  const tests = readFileSync(path.join(deploy, 'prometheus/weir-rules-test.yml'), 'utf8');
  for (const [, alert] of rules.matchAll(/- alert: (\w+)/g)) assert.ok(tests.includes(`alertname: ${alert}`), `${alert} has a test`);
});

test('deploy: the metrics page passes promtool', async () => {
  const s = await Server.start();
  await work(s);
  const { text } = await s.metrics();
  const r = spawnSync(tool('promtool'), ['check', 'metrics'], { input: text, encoding: 'utf8' });
  const lint = (r.stdout + r.stderr).split('\n').filter((l) => l && !/^vllm:/.test(l)); // those names are vLLM's
  assert.deepEqual(lint, []);
  await s.stop();
});

test('deploy: every metric that is asked for exists', async () => {
  const s = await Server.start('--price-per-bandwidth-hour', '1');
  await work(s);
  const { text } = await s.metrics();
  const there = new Set([...text.matchAll(/^([a-zA-Z_:][\w:]*)(?:\{| )/gm)].map((m) => m[1]));
  const asked = new Map();
  const note = (from, t) => {
    for (const [name] of t.matchAll(/\b(weir_[a-z_]+|vllm:[a-z_]+)\b/g)) asked.set(name, from);
  };
  for (const p of panels) for (const t of p.targets) note(p.title, t.expr);
  for (const f of [...files('prometheus').filter((x) => !x.endsWith('-test.yml')), ...files('kubernetes')])
    note(path.basename(f), readFileSync(f, 'utf8'));
  assert.ok(asked.size > 35, `${asked.size} names`);
  for (const [name, from] of asked) assert.ok(there.has(name), `${from} asks for ${name}, which /metrics has not`);
  await s.stop();
});

test('deploy: panels are whole', () => {
  const ids = new Set();
  const taken = new Set();
  for (const p of dashboard.panels) {
    assert.ok(p.id && !ids.has(p.id), `id of ${p.title}`);
    ids.add(p.id);
    const { x, y, w, h } = p.gridPos;
    assert.ok(x >= 0 && x + w <= 24, p.title);
    for (let i = x; i < x + w; i++) {
      for (let j = y; j < y + h; j++) {
        assert.ok(!taken.has(`${i},${j}`), `${p.title} lies on another panel`);
        taken.add(`${i},${j}`);
      }
    }
    if (p.targets) assert.equal(new Set(p.targets.map((t) => t.refId)).size, p.targets.length, p.title);
  }
});

const freePort = () => new Promise((done) => {
  const s = net.createServer().listen(0, '127.0.0.1', () => {
    const { port } = s.address();
    s.close(() => done(port));
  });
});

test('deploy: a real Prometheus scrapes, evaluates and answers', async () => {
  const s = await Server.start('--max-running', '4');
  const dir = mkdtempSync(path.join(os.tmpdir(), 'weir-prometheus-'));
  const config = readFileSync(path.join(deploy, 'prometheus/prometheus.yml'), 'utf8')
    .replace('127.0.0.1:8080', `127.0.0.1:${s.port}`).replace('scrape_interval: 5s', 'scrape_interval: 100ms')
    .replace('evaluation_interval: 15s', 'evaluation_interval: 1s').replace('- weir-rules.yml', `- ${deploy}/prometheus/weir-rules.yml`);
  writeFileSync(path.join(dir, 'prometheus.yml'), config);
  const port = await freePort();
  const p = spawn(tool('prometheus'), [`--config.file=${dir}/prometheus.yml`, `--storage.tsdb.path=${dir}/data`,
    `--web.listen-address=127.0.0.1:${port}`, '--log.level=warn'], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '', done = false;
  p.stderr.on('data', (d) => { log += d; });
  const exited = new Promise((done) => p.on('close', done));
  const api = async (where) => {
    const r = await (await fetch(`http://127.0.0.1:${port}/api/v1/${where}`)).json();
    assert.equal(r.status, 'success', `${where}: ${r.error}`);
    return r.data;
  };
  const query = async (q) => (await api(`query?query=${encodeURIComponent(q)}`)).result;
  try {
    await until(() => query('up{job="weir"} == 1').then((r) => r.length, () => 0), 'Prometheus scrapes').catch((e) => assert.fail(`${e.message}: ${log}`));
    const busy = (async () => {
      for (; !done; await sleep(200)) await work(s);
    })();
    busy.catch(() => {}); // it is awaited below
    await until(async () => (await query('sum(rate(vllm:generation_tokens_total[10s])) > 0')).length, 'tokens flow');
    await until(async () => (await query('count_over_time(up{job="weir"}[10s]) >= 10')).length, 'it scraped many times');
    for (const panel of panels) {
      const answers = async () => (await Promise.all(panel.targets.map((t) => query(fill(t.expr))))).flat().length;
      if (/Pressure|by key|Evictions|end/.test(panel.title)) await answers(); // may be empty
      else await until(answers, `"${panel.title}" shows something`);
    }
    const scaled = readFileSync(path.join(deploy, 'kubernetes/keda.yaml'), 'utf8');
    for (const [, q] of scaled.matchAll(/query: (.*)/g)) await until(async () => (await query(q)).length === 1, `${q} tells`);
    done = true;
    await busy;
    const { groups } = await api('rules');
    for (const g of groups) for (const r of g.rules) assert.equal(r.health === 'err' ? r.lastError : '', '', r.name);
    assert.equal(groups.flatMap((g) => g.rules).length, 14);
    assert.deepEqual((await api('alerts')).alerts.filter((a) => a.state === 'firing'), []);
    await s.kill();
    await until(async () => (await query('up{job="weir"} == 0')).length, 'it notices that the server is gone');
    await until(async () => (await api('alerts')).alerts.some((a) => a.labels.alertname === 'WeirDown'), 'it raises the alert');
  } finally {
    done = true;
    p.kill();
    await exited;
  }
});

await runAll();
