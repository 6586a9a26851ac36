#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a GGUF model of any shape and type with seeded random weights, for tests and benchmarks.

The same arguments give the same bytes. Weights are drawn directly as blocks of the type, about
N(0, 1/n_in), so that activations stay finite and logits are spread; a tensor's content depends
on the seed and its name alone, not on the other tensors or the number of files."""

import argparse
import sys
import time
import zlib
from dataclasses import replace

import numpy as np

import gguf_writer
import model_spec
from quants import TYPES

CHUNK_BYTES = 4 << 20
QUIET_BYTES = 64 << 20  # no progress before this much is written


def random_tensor(s, spec, type_name, seed):
    """A gguf_writer.Tensor of random blocks."""
    t = TYPES[type_name]

    def chunks():
        rng = np.random.Generator(np.random.SFC64([seed, zlib.crc32(spec.name.encode())]))
        n = int(np.prod(spec.shape, dtype=np.int64))
        if spec.role == "rope_freqs":
            yield np.array(model_spec.rope_freq_factors(s), "<f4")
        elif spec.role == "norm":
            yield (1 + 0.1 * rng.standard_normal(n, dtype=np.float32)).astype("<f4")
        elif spec.role == "bias":
            yield (0.1 * rng.standard_normal(n, dtype=np.float32)).astype("<f4")
        else:
            gain = 1.0 if spec.role == "matrix" else 2.0  # decided routing and spread logits
            sigma = gain / np.sqrt(spec.shape[-1])
            n_blocks, step = n // t.elems, max(1, CHUNK_BYTES // t.size)
            for i in range(0, n_blocks, step):
                yield t.draw(rng, min(step, n_blocks - i), sigma)

    return gguf_writer.Tensor(spec.name, spec.shape, type_name, chunks)


class Progress:
    """Bytes written and their rate, on stderr: a line that moves on a terminal, else every tenth."""

    def __init__(self, total):
        self.total, self.done, self.begin, self.shown = total, 0, time.monotonic(), 0.0
        self.live = sys.stderr.isatty()

    def __call__(self, n_bytes):
        self.done += n_bytes
        part = self.done / self.total
        if part < 1 and (part - self.shown < (0.005 if self.live else 0.1) or self.done < QUIET_BYTES):
            return
        self.shown = part
        rate = self.done / max(time.monotonic() - self.begin, 1e-9)
        print(f"{100 * part:5.1f} %  {self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB, {rate / 1e6:.0f} MB/s",
              end="\r" if self.live and part < 1 else "\n", file=sys.stderr, flush=True)


def copied_tokenizer(path):
    reader = gguf_writer.GGUFReader(path)
    keys = {k: reader.typed(k) for k in reader.metadata if k.startswith("tokenizer.")}
    if "tokenizer.ggml.tokens" not in keys:
        raise ValueError(f"{path} holds no tokenizer")
    return keys


def parse_args(argv):
    p = argparse.ArgumentParser(
        description="Write a GGUF model with seeded random weights.",
        epilog="example: make_model.py --preset llama-1b --type Q8_0 -o model.gguf")
    p.add_argument("--preset", choices=sorted(model_spec.preset_shapes()), default="tiny-llama",
                   help="the shape to start from (default tiny-llama)")
    p.add_argument("--type", choices=sorted([*TYPES, "Q4_K_M", "Q5_K_M"]), default="Q8_0",
                   help="type of the matrices (default Q8_0)")
    p.add_argument("--mix", action="store_true",
                   help="keep the output and part of attn_v and ffn_down in Q6_K, as the K_M mixes do")
    p.add_argument("-o", "--output", required=True, metavar="FILE.gguf")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--split", type=int, default=1, metavar="N", help="write N files")
    p.add_argument("--gguf-version", type=int, choices=(2, 3), default=3)
    p.add_argument("--name", help="general.name (default: preset and type)")
    p.add_argument("--tokenizer-from", metavar="FILE.gguf",
                   help="copy the tokenizer of this file; its size becomes the vocabulary's")
    g = p.add_argument_group("overrides of the preset's shape")
    for flag in ("layers", "embd", "ff", "heads", "kv-heads", "head-dim", "vocab", "ctx", "experts",
                 "experts-used", "expert-ff", "sliding-window"):
        g.add_argument("--" + flag, type=int, metavar="N")
    g.add_argument("--arch", choices=model_spec.ARCHITECTURES)
    g.add_argument("--rope-base", type=float, metavar="X")
    g.add_argument("--rope-scaling", choices=("none", "linear", "yarn", "llama3"))
    g.add_argument("--rope-factor", type=float, metavar="X", help="default 4 for a scaling that is given")
    g.add_argument("--rope-original-ctx", type=int, metavar="N", help="default ctx / factor")
    g.add_argument("--tied", dest="tied", action="store_true", default=None, help="output is token_embd")
    g.add_argument("--untied", dest="tied", action="store_false")
    g.add_argument("--attn-bias", action="store_true", default=None, help="biases in llama attention")
    g.add_argument("--separate-experts", action="store_true", default=None,
                   help="the older layout, one tensor an expert")
    args = p.parse_args(argv)
    if args.split < 1 or args.seed < 0:
        p.error("--split must be at least 1 and --seed at least 0")
    return args


def shape_of(args):
    s = model_spec.preset_shapes()[args.preset]
    names = ("arch", "layers", "embd", "ff", "heads", "kv_heads", "head_dim", "vocab", "ctx", "experts",
             "experts_used", "expert_ff", "sliding_window", "rope_base", "tied", "attn_bias",
             "separate_experts")
    given = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    s = replace(s, **given)
    if args.head_dim is None and (args.embd or args.heads) and s.embd % s.heads == 0:
        s = replace(s, head_dim=s.embd // s.heads)
    if s.experts and args.expert_ff is None and (not s.expert_ff or (args.ff and s.arch == "llama")):
        s = replace(s, expert_ff=s.ff)
    if args.rope_scaling:
        s = replace(s, rope=model_spec.RopeScaling(args.rope_scaling, 4.0))
    if args.rope_factor:
        s = replace(s, rope=replace(s.rope, factor=args.rope_factor))
    if args.rope_original_ctx:
        s = replace(s, rope=replace(s.rope, original_ctx=args.rope_original_ctx))
    if s.rope.kind != "none" and not s.rope.original_ctx:
        s = replace(s, rope=replace(s.rope, original_ctx=max(1, int(s.ctx / s.rope.factor))))
    return s


def make_model(s, type_name, path, seed=1, mixed=False, name="random", splits=1, version=3,
               tokenizer=None, progress=False):
    """Write the model; returns its paths. `type_name` may be Q4_K_M or Q5_K_M."""
    s.check()
    mixed = mixed or type_name.endswith("_K_M")
    base = type_name[:-2] if type_name.endswith("_K_M") else type_name
    file_type = base + "_M" if mixed and base in ("Q4_K", "Q5_K") else base
    tokenizer = tokenizer or model_spec.tokenizer_metadata(s.arch, s.vocab)
    meta = {**model_spec.metadata(s, name, file_type), **tokenizer}
    tensors = []
    for spec in model_spec.tensor_specs(s):
        tensors.append(random_tensor(s, spec, model_spec.tensor_type(s, spec, base, mixed), seed))
    report = Progress(sum(t.n_bytes() for t in tensors)) if progress else None
    return gguf_writer.write_gguf(path, meta, tensors, version=version, splits=splits, progress=report)


def main(argv=None):
    args = parse_args(argv)
    try:
        s, tokenizer = shape_of(args), None
        if args.tokenizer_from:
            tokenizer = copied_tokenizer(args.tokenizer_from)
            n = len(tokenizer["tokenizer.ggml.tokens"].value)
            if args.vocab not in (None, n):
                raise ValueError(f"--vocab {args.vocab}, but {args.tokenizer_from} has {n} tokens")
            s = replace(s, vocab=n)
        name = args.name or f"random {args.preset} {args.type}"
        paths = make_model(s, args.type, args.output, args.seed, args.mix, name, args.split,
                           args.gguf_version, tokenizer, progress=True)
    except (ValueError, OSError) as e:
        print(f"make_model: {e}", file=sys.stderr)
        return 1
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
