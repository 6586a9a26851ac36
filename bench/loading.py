#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time from start to the first token against the time to read the model file, and peak memory against what must be held.

  loading.py [--weir ./weir] [--repeats 5] [--cold] [--read-threads 4] MODEL.gguf

Runs in turn: reading the file (preadv by several threads, 4 MiB at a time), `weir bench model` (which prints its own load
time) and `weir serve` until it is ready. --cold drops the page cache before each (needs root)."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

PIECE = 4 << 20


def drop_cache():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


def read_file(path, n_threads):
    size, at, lock = os.path.getsize(path), [0], threading.Lock()

    def work():
        fd, buffer = os.open(path, os.O_RDONLY), bytearray(PIECE)
        while True:
            with lock:
                begin = at[0]
                at[0] += PIECE
            if begin >= size:
                os.close(fd)
                return
            os.preadv(fd, [buffer], begin)

    began = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return time.monotonic() - began


def bench_load(a):
    out = subprocess.run([a.weir, "bench", "model", a.model, "--prompt", "1", "--gen", "1", "--read-gb-s", "1", "--json"],
                         text=True, capture_output=True, check=True).stdout
    return json.loads(out)["load_s"]


def serve(a):
    """Seconds until ready; peak resident bytes after a request."""
    began = time.monotonic()
    p = subprocess.Popen([a.weir, "serve", a.model, "--port", str(a.port), "--kv-memory", a.kv_memory, "--log-format", "json"],
                         stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    url = f"http://127.0.0.1:{a.port}"
    try:
        while True:
            try:
                urllib.request.urlopen(url + "/ready", timeout=5).read()
                break
            except (urllib.error.URLError, OSError):
                if p.poll() is not None:
                    raise SystemExit(p.stderr.read())
                time.sleep(0.005)
        ready_s = time.monotonic() - began
        body = json.dumps({"prompt": list(range(1000, 2000)), "max_tokens": 8, "ignore_eos": True}).encode()
        urllib.request.urlopen(urllib.request.Request(url + "/v1/completions", body,
                                                      {"Content-Type": "application/json"})).read()
        with open(f"/proc/{p.pid}/status") as f:
            peak = int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1)) * 1024
    finally:
        p.terminate()
        p.wait()
    return ready_s, peak


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--weir", default="./weir")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--cold", action="store_true")
    p.add_argument("--read-threads", type=int, default=4)
    p.add_argument("--kv-memory", default="256M", help="as weir serve takes it, in M or G")
    p.add_argument("--port", type=int, default=8098)
    a = p.parse_args()
    reads, loads, readies, peaks = [], [], [], []
    for _ in range(a.repeats):
        for results, measure in ((reads, lambda: read_file(a.model, a.read_threads)), (loads, lambda: bench_load(a))):
            if a.cold:
                drop_cache()
            results.append(measure())
        if a.cold:
            drop_cache()
        ready_s, peak = serve(a)
        readies.append(ready_s)
        peaks.append(peak)
    size = os.path.getsize(a.model)
    read = statistics.median(reads)
    print(f"{'cold' if a.cold else 'warm'}, {size / 1e6:.0f} MB, medians of {a.repeats}")
    for name, values in (("read the file", reads), ("load the weights", loads), ("serve until ready", readies)):
        v = statistics.median(values)
        print(f"{name:18} {v:6.2f} s  {size / v / 1e9:5.2f} GB/s  {v / read:5.2f}x reading  "
              f"({min(values):.2f} to {max(values):.2f})")
    held = size + (int(a.kv_memory[:-1]) << {"M": 20, "G": 30}[a.kv_memory[-1]])
    print(f"peak memory        {max(peaks) / 1e6:.0f} MB, {max(peaks) / held:.2f}x weights and keys and values "
          f"({held / 1e6:.0f} MB with --kv-memory {a.kv_memory})")


if __name__ == "__main__":
    sys.exit(main())
