# SPDX-License-Identifier: Apache-2.0
"""A transformer's forward pass over a GGUF file, in float64 with NumPy: the plain textbook
computation, one sequence at once, no cache, written to be compared with and not to be fast.

Papers: Llama 2 (arXiv:2307.09288), RoPE (arXiv:2104.09864), YaRN (arXiv:2309.00071),
Mixtral (arXiv:2401.04088), Qwen3 (arXiv:2505.09388)."""

import math
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))

from gguf_writer import GGUFReader  # noqa: E402


def as_is(x):
    return x


class Model:
    """A model file's weights, dequantised. `act` rounds what matrix products read and `kv` what
    attention reads back: identities, unless one wants to know what such rounding does."""

    def __init__(self, path, act=as_is, kv=as_is):
        r = GGUFReader(path)
        self.arch = r.metadata["general.architecture"]
        self.meta = {k[len(self.arch) + 1:]: v for k, v in r.metadata.items()
                     if k.startswith(self.arch + ".")}
        self.w = {name: r.array(name).astype(np.float64) for name in r.tensors}
        self.act, self.kv = act, kv
        self.heads = self.meta["attention.head_count"]
        self.kv_heads = self.meta["attention.head_count_kv"]
        self.head_dim = self.meta["attention.key_length"]
        self.angles, self.rope_gain = self.rope_frequencies()

    def rope_frequencies(self):
        """Angle per position of each pair, and what cosine and sine are multiplied by."""
        d, base = self.meta["rope.dimension_count"], self.meta["rope.freq_base"]
        angle = base ** (-2 * np.arange(d // 2) / d)
        kind = self.meta.get("rope.scaling.type", "none")
        if kind == "linear":
            return angle / self.meta["rope.scaling.factor"], 1.0
        if kind == "yarn":
            factor = self.meta["rope.scaling.factor"]
            ctx = self.meta["rope.scaling.original_context_length"]

            def pair_that_turns(n):  # the (fractional) pair that makes n turns within ctx
                return d * math.log(ctx / (2 * math.pi * n)) / (2 * math.log(base))

            low = max(0, math.floor(pair_that_turns(32)))
            high = min(d - 1, math.ceil(pair_that_turns(1)))
            slow = np.clip((np.arange(d // 2) - low) / max(high - low, 0.001), 0, 1)
            gain = self.meta.get("rope.scaling.attn_factor", 1.0) * (1 + 0.1 * math.log(factor))
            return angle * (1 - slow) + angle / factor * slow, gain
        if "rope_freqs.weight" in self.w:
            return angle / self.w["rope_freqs.weight"], 1.0
        return angle, 1.0

    def linear(self, x, name):
        y = self.act(x) @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def norm(self, x, name):
        eps = self.meta["attention.layer_norm_rms_epsilon"]
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * self.w[name + ".weight"]

    def rope(self, x):
        """x [n, heads, head_dim]. Llama files pair neighbours, Qwen files the two halves."""
        turn = np.arange(len(x))[:, None, None] * self.angles
        cos, sin = np.cos(turn) * self.rope_gain, np.sin(turn) * self.rope_gain
        a, b = (x[..., 0::2], x[..., 1::2]) if self.arch == "llama" else np.split(x, 2, axis=-1)
        out = a * cos - b * sin, a * sin + b * cos
        if self.arch == "llama":
            return np.stack(out, axis=-1).reshape(x.shape)
        return np.concatenate(out, axis=-1)

    def attention(self, x, blk):
        n = len(x)
        q = self.linear(x, blk + "attn_q").reshape(n, self.heads, self.head_dim)
        k = self.linear(x, blk + "attn_k").reshape(n, self.kv_heads, self.head_dim)
        v = self.linear(x, blk + "attn_v").reshape(n, self.kv_heads, self.head_dim)
        if blk + "attn_q_norm.weight" in self.w:
            q, k = self.norm(q, blk + "attn_q_norm"), self.norm(k, blk + "attn_k_norm")
        q, k = self.rope(q), self.rope(k)
        group = self.heads // self.kv_heads
        k, v = (np.repeat(self.kv(t), group, axis=1) for t in (k, v))
        score = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(self.head_dim)
        i, j = np.ogrid[:n, :n]
        window = self.meta.get("attention.sliding_window", n)
        score = np.where((j <= i) & (i - j < window), score, -np.inf)
        p = np.exp(score - score.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return self.linear(np.einsum("hij,jhd->ihd", p, v).reshape(n, -1), blk + "attn_output")

    def gated(self, x, gate, up, down):
        g = self.act(x) @ gate.T
        return self.act(g / (1 + np.exp(-g)) * (self.act(x) @ up.T)) @ down.T

    def expert(self, blk, part, e):
        merged = self.w.get(f"{blk}ffn_{part}_exps.weight")
        return self.w[f"{blk}ffn_{part}.{e}.weight"] if merged is None else merged[e]

    def feed_forward(self, x, blk):
        if blk + "ffn_gate_inp.weight" not in self.w:
            return self.gated(x, *(self.w[f"{blk}ffn_{part}.weight"] for part in ("gate", "up", "down")))
        router = x @ self.w[blk + "ffn_gate_inp.weight"].T
        p = np.exp(router - router.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        out = np.zeros_like(x)
        for i, row in enumerate(p):
            chosen = np.argsort(-row, kind="stable")[:self.meta["expert_used_count"]]
            for e in chosen:
                weights = (self.expert(blk, part, e) for part in ("gate", "up", "down"))
                out[i] += row[e] / row[chosen].sum() * self.gated(x[i], *weights)
        return out

    def logits(self, tokens):
        """[n, vocab] of a prompt's every position."""
        x = self.w["token_embd.weight"][tokens]
        for i in range(self.meta["block_count"]):
            blk = f"blk.{i}."
            x = x + self.attention(self.norm(x, blk + "attn_norm"), blk)
            x = x + self.feed_forward(self.norm(x, blk + "ffn_norm"), blk)
        x = self.norm(x, "output_norm")
        head = "output" if "output.weight" in self.w else "token_embd"
        return self.linear(x, head)


# ---- roundings of an engine's arithmetic, to know what error to expect of it ----

def int8_blocks(block):
    """Rounds rows to int8 with one scale a `block` values, as integer matrix products do."""
    def rounded(x):
        b = x.reshape(*x.shape[:-1], -1, min(block, x.shape[-1]))
        d = np.abs(b).max(axis=-1, keepdims=True) / 127
        return (np.rint(b / np.where(d == 0, 1, d)) * d).reshape(x.shape)
    return rounded


def bf16(x):
    u = np.asarray(x, np.float32).view(np.uint32)
    u = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return u.view(np.float32).astype(np.float64)


def f16(x):
    return x.astype(np.float16).astype(np.float64)
