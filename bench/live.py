#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A running server's scheduling, measured from outside (docs/benchmarks.md).

  bench/live.py error MODEL.gguf [-- weir serve options]    predicted against measured step times on mixed traffic
  bench/live.py prefill MODEL.gguf [-- weir serve options]  16 streams decode while a prompt of 16,384 tokens arrives

Starts `weir serve` by itself on a free port. Tokens of prompts are random, so nothing is shared.
"""
import argparse
import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time


def start(args):
    server = subprocess.Popen(
        [args.weir, "serve", args.model, "--port", "0", "--log-level", "warn", *args.options],
        stdout=subprocess.PIPE, text=True)
    for line in server.stdout:
        found = re.search(r"//127\.0\.0\.1:(\d+)", line)
        if found:
            return server, int(found.group(1))
    raise SystemExit("the server did not start")


def complete(port, n_prompt, n_output, times, rng):
    """One stream; appends the arrival time of each token."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/completions", json.dumps({
        "prompt": [rng.randrange(1000, 30000) for _ in range(n_prompt)], "max_tokens": n_output, "stream": True,
        "ignore_eos": True, "temperature": 0}), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(answer.read())
    for line in answer:
        if line.startswith(b"data: {") and b'"finish_reason":null' in line:
            times.append(time.monotonic())
    connection.close()


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def histogram(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    found = re.findall(r'weir_step_prediction_error_ratio_bucket\{[^}]*le="([^"]+)"[^}]*\} (\d+)', text)
    return [(float(bound), int(count)) for bound, count in found]


def histogram_quantile(before, after, q):
    """Linear within a bucket, as Prometheus does it."""
    counts = [(bound, a - b) for (bound, a), (_, b) in zip(after, before)]
    rank, low, below = q * counts[-1][1], 0.0, 0
    for bound, upto in counts:
        if upto >= rank and upto > below:
            return low + (bound - low) * (rank - below) / (upto - below)
        low, below = bound, upto
    return float("inf")


def error(port, args):
    def client(seed):
        rng = random.Random(seed)
        while time.monotonic() < end:
            complete(port, rng.randrange(8, 800) if rng.random() < 0.5 else rng.randrange(8, 64),
                     rng.randrange(4, 80), [], rng)
            time.sleep(rng.expovariate(4))
    end = time.monotonic() + args.seconds
    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for c in clients:
        c.start()
    while not (first := histogram(port)) or first[-1][1] < 200:
        if time.monotonic() > end:
            raise SystemExit("not 200 steps in that time: raise --seconds")
        time.sleep(0.05)
    for c in clients:
        c.join()
    last = histogram(port)
    zero = [(bound, 0) for bound, _ in first]
    print(f"first {first[-1][1]} steps: median error {100 * histogram_quantile(zero, first, 0.5):.1f} %")
    print(f"the {last[-1][1] - first[-1][1]} after them: median error "
          f"{100 * histogram_quantile(first, last, 0.5):.1f} %, nine of ten within "
          f"{100 * histogram_quantile(first, last, 0.9):.1f} %")


def prefill(port, args):
    rng = random.Random(1)
    streams = [[] for _ in range(16)]
    threads = [threading.Thread(target=complete, args=(port, 64, 4000, times, random.Random(i)), daemon=True)
               for i, times in enumerate(streams)]
    for t in threads:
        t.start()
    time.sleep(args.warm)
    began, long, short = time.monotonic(), [], []
    t = threading.Thread(target=complete, args=(port, 16384, 2, long, rng), daemon=True)
    t.start()
    short_waits = []
    while t.is_alive() and time.monotonic() < began + args.seconds:
        asked, short = time.monotonic(), []
        complete(port, 32, 1, short, rng)
        short_waits.append(short[0] - asked)
        time.sleep(0.5)
    end = long[0] if long else time.monotonic()
    def gaps(lo, hi):
        return [b - a for times in streams for a, b in zip(times, times[1:]) if lo <= b <= hi]
    for name, g in (("before", gaps(began - 2, began)), ("while it is prefilled", gaps(began, end))):
        print(f"{name}: {len(g)} gaps, p50 {1e3 * quantile(g, 0.5):.1f} ms, p99 {1e3 * quantile(g, 0.99):.1f} ms, "
              f"longest {1e3 * max(g, default=0):.1f} ms")
    print(f"first token of the long prompt after {end - began:.1f} s{'' if long else ' or more'}; "
          f"of short ones meanwhile: median {quantile(short_waits, 0.5):.2f} s, longest {max(short_waits):.2f} s")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=("error", "prefill"))
    p.add_argument("model")
    p.add_argument("--weir", default="./weir")
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("--warm", type=float, default=8)
    mine, options = sys.argv[1:], []
    if "--" in mine:
        mine, options = mine[:mine.index("--")], mine[mine.index("--") + 1:]
    args = p.parse_args(mine)
    args.options = options
    server, port = start(args)
    try:
        {"error": error, "prefill": prefill}[args.what](port, args)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
