#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What an engine's arithmetic costs in quality: Kullback-Leibler divergence and top-1 agreement of its logits with those of
exact arithmetic on the same model file (tests/golden/numpy_forward.py: dequantised weights, float64).

  quality.py --engine weir=build/gcc/bench/logits MODEL.gguf
  quality.py --engine weir=... --engine other=PROGRAM --kv f16 --kv q8_0 --demo MODEL.gguf...

An engine is a program that is called as PROGRAM MODEL IDS OUT KV-TYPE: IDS has a sequence of token numbers a line, OUT
receives float32 [tokens][vocabulary], KV-TYPE is f16 or q8_0. Tokens: random, or with --demo those of the recall prompts of
models/demo/eval.jsonl with their chat template, for the demo model in whatever type."""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
for path in ("../tests/golden", "../tools", "../models/demo"):
    sys.path.insert(0, os.path.join(HERE, path))

import numpy_forward  # noqa: E402


def demo_sequences(n):
    from tokenizer import Tokenizer
    folder = os.path.join(HERE, "../models/demo")
    from gguf_writer import GGUFReader
    meta = GGUFReader(os.path.join(folder, "weir-demo.gguf")).metadata
    tok = Tokenizer([tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]])
    lines = [json.loads(x) for x in open(os.path.join(folder, "eval.jsonl"))]
    recall = [x for x in lines if x["set"] == "recall" and x["group"] <= 2000]
    return [tok.encode_chat([(m["role"], m["content"]) for m in x["messages"]]) for x in recall[::max(1, len(recall) // n)]][:n]


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def compare(exact, logits):
    """Mean, 99th percentile and maximum of the divergence in nats; the share of positions with the same best token."""
    kl = np.empty(len(exact))
    same = 0
    for i, (p, q) in enumerate(zip(exact, logits)):
        lp, lq = log_softmax(p), log_softmax(q.astype(np.float64))
        kl[i] = np.sum(np.exp(lp) * (lp - lq))
        same += np.argmax(p) == np.argmax(q)
    return kl.mean(), np.percentile(kl, 99), kl.max(), same / len(exact)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+")
    p.add_argument("--engine", action="append", required=True, metavar="NAME=PROGRAM")
    p.add_argument("--kv", action="append", choices=("f16", "q8_0"), help="(default f16)")
    p.add_argument("--tokens", type=int, default=256, help="of a random sequence (default 256)")
    p.add_argument("--demo", type=int, metavar="N", help="N recall prompts of the demo model instead")
    a = p.parse_args()
    print("| model | KV | engine | mean KL | 99 % | max | top-1 |\n|---|---|---|---|---|---|---|")
    for path in a.models:
        exact_model = numpy_forward.Model(path)
        n_vocab = len(exact_model.w["token_embd.weight"])
        rng = np.random.default_rng(1)
        seqs = demo_sequences(a.demo) if a.demo else [rng.integers(0, n_vocab, a.tokens).tolist()]
        exact = np.concatenate([exact_model.logits(s) for s in seqs])
        del exact_model
        with tempfile.TemporaryDirectory() as tmp:
            ids, out = os.path.join(tmp, "ids"), os.path.join(tmp, "out")
            with open(ids, "w") as f:
                f.writelines(" ".join(map(str, s)) + "\n" for s in seqs)
            for kv in a.kv or ["f16"]:
                for name, program in (e.split("=", 1) for e in a.engine):
                    subprocess.run([program, path, ids, out, kv], check=True, stderr=subprocess.DEVNULL)
                    logits = np.fromfile(out, "<f4").reshape(-1, n_vocab)
                    mean, p99, worst, top1 = compare(exact, logits)
                    print(f"| {os.path.basename(path).removesuffix('.gguf')} | {kv} | {name} | {mean:.2e} | {p99:.2e} | "
                          f"{worst:.2e} | {100 * top1:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
