#!/usr/bin/env python3
"""Scores a demo model by eval.jsonl, or answers one message. Reads the GGUF file and runs it in NumPy alone: no code of
the training, so that an error in the file's layout shows.

  python3 models/demo/check.py                                    # all of eval.jsonl, some minutes
  python3 models/demo/check.py --set recall --failures
  python3 models/demo/check.py --say "My name is Ana." --say "What is my name?"
"""
import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import numpy as np

import evaluate
import export


class Llama:
    """Greedy Llama with a key and value cache, in float32, from the metadata and tensors of a GGUF file."""

    def __init__(self, path):
        meta, self.t = export.read_gguf(path)
        self.layers, self.heads, self.kv_heads = (meta["llama." + k] for k in ("block_count", "attention.head_count", "attention.head_count_kv"))
        self.head_width, self.context = meta["llama.attention.key_length"], meta["llama.context_length"]
        self.epsilon = meta["llama.attention.layer_norm_rms_epsilon"]
        angle = np.arange(self.context)[:, None] * meta["llama.rope.freq_base"] ** (-np.arange(0, self.head_width, 2) / self.head_width)
        self.cos, self.sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        self.stop = {meta["tokenizer.ggml.eos_token_id"], meta["tokenizer.ggml.eot_token_id"]}

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.t[name + ".weight"]

    def rotate(self, x, start):
        """x: [tokens, heads, head_width]; pairs (2i, 2i+1) turn"""
        cos, sin = (t[start:start + len(x), None] for t in (self.cos, self.sin))
        out = np.empty_like(x)
        out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
        return out

    def forward(self, ids, cache):
        """Logits after ids, which follow what is in cache (a list of [k, v] for each layer, grown here)."""
        start = len(cache[0][0]) if cache else 0
        x = self.t["token_embd.weight"][ids]
        n = len(ids)
        ahead = np.triu(np.ones((n, start + n), bool), start + 1)
        for i in range(self.layers):
            w = lambda name: self.t[f"blk.{i}.{name}.weight"].T
            h = self.norm(x, f"blk.{i}.attn_norm")
            q = self.rotate((h @ w("attn_q")).reshape(n, self.heads, -1), start)
            k = self.rotate((h @ w("attn_k")).reshape(n, self.kv_heads, -1), start)
            v = (h @ w("attn_v")).reshape(n, self.kv_heads, -1)
            if i == len(cache):
                cache.append([k, v])
            else:
                cache[i] = [np.concatenate(pair) for pair in zip(cache[i], (k, v))]
            k, v = cache[i]
            out = np.empty_like(q)
            for head in range(self.heads):
                kv = head // (self.heads // self.kv_heads)
                s = q[:, head] @ k[:, kv].T / np.sqrt(np.float32(self.head_width))
                s[ahead] = -np.inf
                s = np.exp(s - s.max(-1, keepdims=True))
                out[:, head] = s / s.sum(-1, keepdims=True) @ v[:, kv]
            x = x + out.reshape(n, -1) @ w("attn_output")
            h = self.norm(x, f"blk.{i}.ffn_norm")
            gate = h @ w("ffn_gate")
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up"))) @ w("ffn_down")
        return self.norm(x[-1], "output_norm") @ self.t["token_embd.weight"].T

    def answer(self, ids, most=160):
        """Greedy answer to a prompt, without the stop token; and whether it stopped by itself."""
        cache, out = [], []
        while len(out) < most and len(ids) + len(out) < self.context:
            token = int(np.argmax(self.forward(out[-1:] or ids, cache)))
            if token in self.stop:
                return out, True
            out.append(token)
        return out, False


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(HERE, "weir-demo.gguf"))
    p.add_argument("--eval", default=os.path.join(HERE, "eval.jsonl"))
    p.add_argument("--set", action="append", help="recall, arithmetic or chat (default: all)")
    p.add_argument("--group", type=int, action="append", help="only recall at this distance")
    p.add_argument("--most", type=int, default=0, help="only this many prompts of each group")
    p.add_argument("--failures", action="store_true", help="show the wrong answers")
    p.add_argument("--answers", action="store_true", help="show all answers")
    p.add_argument("--say", action="append", help="a user message; may be given several times")
    p.add_argument("--system", help="a system message, with --say")
    args = p.parse_args()
    np.seterr(over="ignore")
    model, tok = Llama(args.model), export.tokenizer_of(args.model)
    if args.say:
        messages = [("system", args.system)] if args.system is not None else []
        for text in args.say:
            messages.append(("user", text))
            ids, stopped = model.answer(tok.encode_chat(messages))
            messages.append(("assistant", tok.decode(ids)))
            print(f"> {text}\n{messages[-1][1]}" + ("" if stopped else " ...[no end]"))
        return
    results, ended, asked_all, taken = {}, 0, 0, {}
    for line in evaluate.read(args.eval):
        group = evaluate.group(line)
        if args.set and line["set"] not in args.set or args.group and line.get("group") not in args.group or args.most and taken.get(group, 0) >= args.most:
            continue
        taken[group] = taken.get(group, 0) + 1
        ids, stopped = model.answer(tok.encode_chat([(m["role"], m["content"]) for m in line["messages"]]))
        answer = tok.decode(ids)
        right = evaluate.correct(answer, line["expect"])
        ended, asked_all = ended + stopped, asked_all + 1
        r, asked = results.get(group, (0, 0))
        results[group] = (r + right, asked + 1)
        if args.answers or args.failures and not right:
            print(f"{'right' if right else 'WRONG'} {line['id']} {line['messages'][-1]['content']!r} expects {line['expect']}: {answer!r}", flush=True)
    for group, (r, asked) in results.items():
        print(f"{group:14} {r:4} of {asked:4}  {100 * r / asked:5.1f} %")
    print(f"{'ended itself':14} {ended:4} of {asked_all:4}")


if __name__ == "__main__":
    main()
