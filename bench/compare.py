#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""weir against llama.cpp on the same model files and the same cores: runs both in turn and prints medians and ratios.

  compare.py --peer DIR --cores 0,1 --suite single --suite batched -o results.jsonl q8.gguf f16.gguf
  compare.py --report results.jsonl more.jsonl

DIR holds llama-bench, llama-batched-bench and llama-server. Every run is one process pinned to --cores with as many
threads; each line of the output is one run. Several of these can run side by side on disjoint cores.

suites:
  decode   one stream, five runs in a process, nothing else
  single   prefill (--prompts), decode of one stream
  batched  decode of several streams (--streams), 128 tokens each
  long     decode of 1 and 8 streams at 2k and 4k, keys and values in F16 and in 8 bits
  kv       weir alone: one stream at 32k, prefill at 4k
  mixed    weir alone: one stream at 8k with seven at 1k, and eight uniform ones with the same total
  serve    both servers under --load-client: 32 requests all at once, and as a Poisson stream (--rate)
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

LONG = (2048, 4096)
SERVE_CONTEXT = 2368  # of a request: 2048 tokens in, 256 out, some to spare
SERVE_SLOTS = 8       # the peer's


class Runner:
    def __init__(self, args):
        self.a = args
        self.cores = args.cores.split(",")
        self.threads = str(len(self.cores))
        self.prompts = [int(n) for n in args.prompts.split(",")]
        self.streams = [int(n) for n in args.streams.split(",")]
        self.settings = [s.split(":") for s in args.peer_settings.split(",")]

    def pinned(self, argv, cores=None):
        return ["taskset", "-c", cores or self.a.cores, *argv]

    def output(self, argv, env=None, cores=None):
        r = subprocess.run(self.pinned(argv, cores), env={**os.environ, **(env or {})}, text=True, capture_output=True)
        if r.returncode:
            raise RuntimeError(f"{' '.join(argv)}: exit {r.returncode}: {r.stderr.strip()[-400:]}")
        return r.stdout

    def peer_env(self):
        dirs = [self.a.peer_lib] if self.a.peer_lib else []
        return {"LD_LIBRARY_PATH": ":".join([*dirs, self.a.peer, os.environ.get("LD_LIBRARY_PATH", "")])}

    def peer_path(self, name):
        return os.path.join(self.a.peer, name)

    def weir_model(self, model, *options):
        out = self.output([self.a.weir, "bench", "model", model, "--threads", self.threads, "--json", *options])
        return json.loads(out)

    def peer_batched(self, model, prompt, gen, streams, context, *options):
        out = self.output([self.peer_path("llama-batched-bench"), "-m", model, "-t", self.threads, "-tb", self.threads,
                           "-c", str(context), "-npp", str(prompt), "-ntg", str(gen), "-npl",
                           ",".join(map(str, streams)), "-pps", "--output-format", "jsonl", *options],
                          self.peer_env())
        return [json.loads(x) for x in out.splitlines() if x.startswith("{")]


def row(engine, metric, value, **more):
    return {"engine": engine, "metric": metric, "value": value, **more}


def share(w):
    return {"read_gb_s": w["read_gb_s"], "step_bytes": w["step_bytes"]}


def decode(r, model):
    def weir():
        w = r.weir_model(model, "--prompt", "16", "--gen", "32", "--repeat", "5")
        yield row("weir", "decode", w["decode_tokens_s"], **share(w))

    def peer():
        out = r.output([r.peer_path("llama-bench"), "-m", model, "-t", r.threads, "-p", "0", "-n", "32", "-r", "5", "-fa",
                        "0", "-o", "jsonl"], r.peer_env())
        yield row("peer", "decode", statistics.median(json.loads(out)["samples_ts"]))

    return weir, peer


def single(r, model):
    def weir():
        for i, n in enumerate(r.prompts):
            w = r.weir_model(model, "--prompt", str(n), "--gen", "1" if i else "32")
            yield row("weir", f"prefill {n}", w["prefill_tokens_s"], gflop_s=w["prefill_gflop_s"])
            if not i:
                yield row("weir", "decode", w["decode_tokens_s"], **share(w))

    def peer():
        # The first test takes the place of a warm-up, which would run each of them twice.
        out = r.output([r.peer_path("llama-bench"), "-m", model, "-t", r.threads, "-p",
                        ",".join(map(str, [64, *r.prompts])), "-n", "32", "-r", "1", "-fa", "0", "--no-warmup", "-o", "jsonl"], r.peer_env())
        for x in list(map(json.loads, out.splitlines()))[1:]:
            yield row("peer", f"prefill {x['n_prompt']}" if x["n_prompt"] else "decode", x["avg_ts"])

    return weir, peer


def batched(r, model):
    def weir():
        for n in r.streams:
            w = r.weir_model(model, "--prompt", "128", "--prefill", "128", "--gen", "16", "--streams", str(n))
            yield row("weir", f"streams {n}", w["decode_tokens_s"], **share(w), gflop_s=w["step_gflop"] / w["step_s"])

    def peer():
        for x in r.peer_batched(model, 128, 16, r.streams, max(r.streams) * 192, "-fa", "off"):
            yield row("peer", f"streams {x['pl']}", x["speed_tg"])

    return weir, peer


def long(r, model):
    def weir():
        for kv in ("f16", "q8_0"):
            for n in LONG:
                for streams in (1, 8):
                    w = r.weir_model(model, "--prompt", str(n), "--prefill", str(n if streams == 1 else 512), "--gen",
                                     "16", "--streams", str(streams), "--kv-type", kv)
                    yield row("weir", f"{kv} {streams} x {n}", w["decode_tokens_s"], **share(w))

    def peer():
        for kv, flash in r.settings:
            for n in LONG:
                for x in r.peer_batched(model, n, 16, (1, 8), 8 * (n + 64), "-fa", flash, "-ctk", kv, "-ctv", kv):
                    yield row("peer", f"{kv} {x['pl']} x {n}", x["speed_tg"], setting=f"fa {flash}")

    return weir, peer


def kv(r, model):
    def weir():
        for kind in ("f16", "q8_0"):
            w = r.weir_model(model, "--prompt", "32768", "--prefill", "512", "--gen", "16", "--kv-type", kind)
            yield row("weir", f"{kind} 1 x 32768", w["decode_tokens_s"], **share(w))
            w = r.weir_model(model, "--prompt", "4096", "--gen", "1", "--kv-type", kind)
            yield row("weir", f"{kind} prefill 4096", w["prefill_tokens_s"], gflop_s=w["prefill_gflop_s"])

    return weir, None


def mixed(r, model):
    def weir():
        total = 8192 + 7 * 1024
        for kind in ("f16", "q8_0"):
            for name, prompt in (("mixed", "8192,1024"), ("uniform", str(total // 8))):
                w = r.weir_model(model, "--prompt", prompt, "--streams", "8", "--prefill", "512", "--gen", "32",
                                 "--kv-type", kind)
                yield row("weir", f"{kind} {name}", w["decode_tokens_s"], **share(w))

    return weir, None


def wait_for(url, process):
    for _ in range(1200):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url + "/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"no answer from {url}")


def serve(r, model):
    url = f"http://127.0.0.1:{r.a.port}"
    modes = (["all"], ["poisson", "--rate", str(r.a.rate)])

    def load(argv, engine, env=None):
        for mode in modes:
            if r.a.mode and mode[0] != r.a.mode:
                continue
            log = subprocess.DEVNULL if not r.a.server_log else open(r.a.server_log, "ab")
            server = subprocess.Popen(r.pinned(argv), env={**os.environ, **(env or {})}, stdout=log, stderr=log)
            try:
                wait_for(url, server)
                x = json.loads(r.output([sys.executable, r.a.load_client, "--url", url, "--n", "32", "--seed", "7",
                                         "--mode", *mode], cores=r.a.client_core))
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait()
            for metric in ("out_tok_s", "total_tok_s", "duration_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms",
                           "itl_p99_ms", "tpot_p99_ms", "failed"):
                yield row(engine, f"{mode[0]} {metric}", x.get(metric))

    def weir():
        return load([r.a.weir, "serve", model, "--port", str(r.a.port), "--threads", r.threads, *r.a.weir_serve.split()],
                    "weir")

    def peer():
        return load([r.peer_path("llama-server"), "-m", model, "-t", r.threads, "-tb", r.threads, "-np",
                     str(SERVE_SLOTS), "-c", str(SERVE_SLOTS * SERVE_CONTEXT), "--port", str(r.a.port)], "peer",
                    r.peer_env())

    return weir, peer


SUITES = {f.__name__: f for f in (decode, single, batched, long, kv, mixed, serve)}


def run(a):
    r = Runner(a)
    begin = time.monotonic()
    out = open(a.output, "a") if a.output else sys.stdout
    for rep in range(a.repeats):
        for model in a.files:
            for suite in a.suite:
                for measure in SUITES[suite](r, model):
                    if not measure or time.monotonic() - begin > a.time_limit:
                        continue
                    if a.only and measure.__name__ != a.only:
                        continue
                    began = time.monotonic()
                    try:
                        for x in measure():
                            x = {"suite": suite, "model": os.path.basename(model).removesuffix(".gguf"),
                                 "isa": a.label, "rep": rep, **x}
                            print(json.dumps(x), file=out, flush=True)
                    except (RuntimeError, ValueError) as e:
                        print(f"compare: {suite} {model} {measure.__name__}: {e}", file=sys.stderr)
                    print(f"compare: {suite} {os.path.basename(model)} {measure.__name__} "
                          f"{time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def add_result(x, values, other):
    key = (x["suite"], x["isa"], x["model"], x["metric"])
    if x["value"] is not None:
        values.setdefault(key, {}).setdefault((x["engine"], x.get("setting")), []).append(x["value"])
    for k in ("gflop_s", "read_gb_s", "step_bytes"):
        if k in x:
            other.setdefault((key, k), []).append(x[k])


def read(files):
    """{(suite, model, isa, metric): {engine or engine+setting: [values]}} and the other figures of weir's runs."""
    values, other = {}, {}
    for f in files:
        number = 0
        try:
            with open(f) as lines:
                for number, line in enumerate(lines, 1):
                    add_result(json.loads(line), values, other)
        except OSError as e:
            sys.exit(f"compare: {f}: {e.strerror}")
        except (ValueError, KeyError, TypeError) as e:
            sys.exit(f"compare: {f}, line {number}: not a result that this program wrote ({type(e).__name__}: {e})")
    return values, other


def lower_is_better(metric):
    return metric.endswith(("_ms", "duration_s"))


def report(a):
    values, other = read(a.files)
    last = None
    for key, engines in sorted(values.items(), key=lambda kv: (kv[0][0], kv[0][1], kv[0][2])):
        suite, isa, model, metric = key
        if (suite, isa) != last:
            print(f"\n{suite} {isa}\n| model | measure | weir | llama.cpp | ratio | of the limit, weir | llama.cpp | allows | runs |\n"
                  "|---|---|---|---|---|---|---|---|---|")
            last = (suite, isa)
        weir = statistics.median(engines[("weir", None)]) if ("weir", None) in engines else None
        best = min if lower_is_better(metric) else max
        peers = {s: statistics.median(v) for (e, s), v in engines.items() if e == "peer"}
        setting = best(peers, key=peers.get) if peers else None
        peer = peers.get(setting)
        ratio = None if not weir or not peer else peer / weir if lower_is_better(metric) else weir / peer
        shares = {}  # of each limit, of weir and llama.cpp
        if (key, "read_gb_s") in other:
            per_token = statistics.median(other[(key, "step_bytes")]) / 1e9
            words = metric.split()
            streams = 8 if words[-1] in ("mixed", "uniform") else int(words[1]) if len(words) > 1 else 1
            read_gb_s = statistics.median(other[(key, "read_gb_s")])
            shares["read"] = [v and v * per_token / streams / read_gb_s for v in (weir, peer)]
        if (key, "gflop_s") in other and a.peak_gflops:
            gflop = statistics.median(other[(key, "gflop_s")]) / weir
            shares["ops"] = [v and v * gflop / a.peak_gflops for v in (weir, peer)]
        limits = [", ".join(f"{100 * s[i]:.0f} % {name}" for name, s in shares.items() if s[i]) for i in (0, 1)]
        # Nobody can be further ahead than the peer is from the nearer limit.
        nearest = max((s[1] for s in shares.values() if s[1]), default=None)
        allows = f"{1 / nearest:.1f}x" if nearest else ""
        print(f"| {model} | {metric} | {show(weir)} | {show(peer)}{f' ({setting})' if setting else ''} | "
              f"{f'{ratio:.2f}x' if ratio else ''} | {limits[0]} | {limits[1]} | {allows} | "
              f"{', '.join(str(len(v)) for v in engines.values())} |")


def show(x):
    return "" if x is None else f"{x:.1f}" if x < 1000 else f"{x:.0f}"


def parse(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="+", help="models, or with --report results")
    p.add_argument("--report", action="store_true", help="print medians of result files")
    p.add_argument("--peak-gflops", type=float, help="measured peak of the cores, for --report")
    p.add_argument("--suite", action="append", choices=sorted(SUITES), help="may be repeated (default: single)")
    p.add_argument("--weir", default="./weir")
    p.add_argument("--peer", metavar="DIR", help="llama.cpp's programs")
    p.add_argument("--peer-lib", metavar="DIR", help="libraries that go before DIR's (another CPU backend)")
    p.add_argument("--label", default="best", help="name of the instruction set in the results (default best)")
    p.add_argument("--only", choices=("weir", "peer"))
    p.add_argument("--cores", default="0,1", help="(default 0,1)")
    p.add_argument("--client-core", metavar="N", help="of the load client (default: the server's cores)")
    p.add_argument("--repeats", type=int, default=5, help="runs of each (default 5)")
    p.add_argument("--time-limit", type=float, default=1e9, metavar="S", help="start nothing after S seconds")
    p.add_argument("--prompts", default="512,2048", help="tokens, for single (default 512,2048)")
    p.add_argument("--streams", default="1,2,4,8,16,32", help="for batched (default 1,2,4,8,16,32)")
    p.add_argument("--peer-settings", default="f16:off,f16:on,q8_0:on", metavar="KV:FLASH,...",
                   help="llama.cpp's, for long (default f16:off,f16:on,q8_0:on)")
    p.add_argument("--load-client", default="load.py", help="an OpenAI streaming load client, for serve")
    p.add_argument("--weir-serve", default="", metavar="OPTIONS", help="more options for weir serve")
    p.add_argument("--mode", choices=("all", "poisson"), help="only this half of serve")
    p.add_argument("--rate", type=float, default=0.1, help="requests/s of the Poisson stream (default 0.1)")
    p.add_argument("--port", type=int, default=8099)
    p.add_argument("--server-log", metavar="FILE", help="the servers' output is appended here")
    p.add_argument("-o", "--output", metavar="FILE", help="results are appended (default: standard output)")
    a = p.parse_args(argv)
    a.suite = a.suite or ["single"]
    if not a.report and not a.peer and a.only != "weir":
        p.error("--peer DIR names the other programs; --only weir runs without them")
    return a


if __name__ == "__main__":
    args = parse(sys.argv[1:])
    (report if args.report else run)(args)
