#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the golden models and vectors of this folder; README.md says what they are.

    make_golden.py            all of them; needs torch and transformers
    make_golden.py --numpy    those of the quantised types alone; needs NumPy alone
    make_golden.py --check    compares the NumPy forward pass with the committed vectors

Each model is NAME.gguf with NAME.vec. Weights come from a seeded generator."""

import argparse
import os
import struct
import sys
import zlib
from dataclasses import replace

import numpy as np

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tools"))
sys.path.insert(0, HERE)

import model_spec  # noqa: E402
from gguf_writer import tensor_of, write_gguf  # noqa: E402
from model_spec import RopeScaling, Shape  # noqa: E402
from numpy_forward import Model, bf16, f16, int8_blocks  # noqa: E402
from quants import TYPES  # noqa: E402

VOCAB, CTX = 320, 256
AGREE = 1e-4  # how far the two references may be apart, relative to the logits' root mean square

# ---- what there is ----

SMALL = dict(layers=2, embd=64, ff=64, heads=4, kv_heads=2, head_dim=16, vocab=VOCAB, ctx=CTX)
SCALED = dict(factor=4.0, original_ctx=64)
QWEN = dict(rms_eps=1e-6, rope_base=1e6)
EXPERTS = dict(experts=4, experts_used=2, expert_ff=32)

# Models whose reference is Hugging Face transformers; all F32.
HF_MODELS = {
    "llama2": Shape("llama", **{**SMALL, "kv_heads": 4}, rms_eps=0.01),
    "llama3": Shape("llama", **SMALL, rope_base=500000.0, tied=True, rope=RopeScaling("llama3", **SCALED)),
    "llama-linear": Shape("llama", **SMALL, tied=True, rope=RopeScaling("linear", **SCALED)),
    "llama-yarn": Shape("llama", **SMALL, tied=True, rope=RopeScaling("yarn", **SCALED)),
    "llama-yarn-attn": Shape("llama", **SMALL, tied=True, rope=RopeScaling("yarn", **SCALED, attn_factor=0.8)),
    "llama-bias": Shape("llama", **SMALL, tied=True, attn_bias=True),
    "mistral": Shape("llama", **{**SMALL, "head_dim": 32}, tied=True),
    "mistral-window": Shape("llama", **SMALL, tied=True, sliding_window=24),
    "qwen2": Shape("qwen2", **SMALL, **QWEN, tied=True),
    "qwen2-yarn": Shape("qwen2", **SMALL, **QWEN, rope=RopeScaling("yarn", **SCALED)),
    "qwen3": Shape("qwen3", **{**SMALL, "head_dim": 32}, **QWEN, tied=True),
    "mixtral": Shape("llama", **SMALL, **EXPERTS, rope_base=1e6),
    "mixtral-separate": Shape("llama", **SMALL, **EXPERTS, rope_base=1e6, tied=True, separate_experts=True),
    "qwen3moe": Shape("qwen3moe", **{**SMALL, "head_dim": 32}, **QWEN, experts=8, experts_used=3, expert_ff=16),
}

# Models whose reference is numpy_forward.py; 256 is the least row of the K types.
WIDE = dict(layers=1, embd=256, ff=256, heads=4, kv_heads=1, head_dim=64, vocab=VOCAB, ctx=CTX)
WIDE_EXPERTS = dict(experts=3, experts_used=2, expert_ff=256)
TYPE_SHAPE = Shape("llama", **WIDE, tied=True)
NUMPY_MODELS = {f"type-{t.lower()}": (TYPE_SHAPE, t) for t in TYPES}
for name in ("F32", "F16", "BF16"):  # any row will do: smaller files
    NUMPY_MODELS[f"type-{name.lower()}"] = (replace(TYPE_SHAPE, embd=64, ff=64, head_dim=16, layers=2), name)
# Neither whole groups of 16 rows nor whole steps of 32 columns (src/kernel/lanes.h).
NUMPY_MODELS["type-bf16"] = (replace(NUMPY_MODELS["type-bf16"][0], ff=72, vocab=VOCAB + 5), "BF16")
NUMPY_MODELS.update({
    "mixed-q4_k_m": (replace(TYPE_SHAPE, layers=2, tied=False), "Q4_K_M"),
    "qwen2-q8_0": (Shape("qwen2", **WIDE, **QWEN, tied=True), "Q8_0"),
    "qwen2-q4_k": (Shape("qwen2", **WIDE, **QWEN, tied=True), "Q4_K"),
    "mixtral-q8_0": (Shape("llama", **{**WIDE, "embd": 128, "head_dim": 32},
                           **{**WIDE_EXPERTS, "expert_ff": 96}), "Q8_0"),
    "qwen3moe-q4_k": (Shape("qwen3moe", **WIDE, **QWEN, **WIDE_EXPERTS, tied=True), "Q4_K"),
})


# ---- the file of vectors ----

def write_vec(path, tokens, positions, logits, tolerances):
    with open(path, "wb") as f:
        f.write(b"WVEC" + struct.pack("<III", len(tokens), logits.shape[1], len(positions)))
        f.write(np.asarray(tokens, "<i4").tobytes() + np.asarray(positions, "<i4").tobytes())
        f.write(np.asarray(logits, "<f4").tobytes() + struct.pack("<2f", *tolerances))


def read_vec(path):
    with open(path, "rb") as f:
        b = f.read()
    if b[:4] != b"WVEC":
        raise ValueError(f"{path} is not a file of vectors")
    n, vocab, n_pos = struct.unpack_from("<III", b, 4)
    ints = np.frombuffer(b, "<i4", n + n_pos, 16)
    at = 16 + 4 * (n + n_pos)
    logits = np.frombuffer(b, "<f4", n_pos * vocab, at).reshape(n_pos, vocab)
    return ints[:n], ints[n:], logits, struct.unpack_from("<2f", b, at + 4 * n_pos * vocab)


def prompt(name, attempt):
    """48 to 80 tokens (special ones left out) and eight of their positions, the ends included."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), attempt])
    n = int(rng.integers(48, 81))
    tokens = rng.integers(0, model_spec.MIN_VOCAB - len(model_spec.SPECIAL_TOKENS), n)
    middle = 2 + rng.choice(n - 4, 4, replace=False)
    return tokens, np.sort(np.concatenate([[0, 1], middle, [n - 2, n - 1]]))


def difference(a, b):
    """Root mean square of a - b over that of b."""
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(np.square(b))))


def expected_errors(path, tokens, positions, logits):
    """Measured effects of an engine's roundings, relative: of activations to float16 (bfloat16 where
    that is the weights' type), and of activations to int8 with one scale a 256 values; keys and
    values to float16 in both."""
    act = bf16 if "bf16" in path else f16
    return [difference(Model(path, a, f16).logits(tokens)[positions], logits)
            for a in (act, int8_blocks(256))]


def stable_prompt(name, path, s):
    """A prompt and NumPy's logits for it. With experts, one where those roundings leave the choice of
    experts alone at the positions that are compared: a changed choice changes everything."""
    for attempt in range(200):
        tokens, positions = prompt(name, attempt)
        logits = Model(path).logits(tokens)[positions]
        if not s.experts or max(expected_errors(path, tokens, positions, logits)) < 0.04:
            return tokens, positions, logits
    raise SystemExit(f"{name}: no prompt is stable")


# ---- random weights ----

def random_weights(s, seed):
    """name -> float32 array for every tensor of the shape."""
    out = {}
    for spec in model_spec.tensor_specs(s):
        rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
        x = rng.standard_normal(spec.shape)
        if spec.role == "rope_freqs":
            x = np.array(model_spec.rope_freq_factors(s))
        elif spec.role == "norm":
            x = 1 + 0.2 * x
        elif spec.role == "bias":
            x = 0.3 * x
        elif spec.role == "embedding":
            x = 0.3 * x
        else:
            # Queries and keys a little larger, so that attention is not flat.
            gain = 1.5 if ".attn_q." in spec.name or ".attn_k." in spec.name else 1.0
            x = gain * x / np.sqrt(spec.shape[-1])
        out[spec.name] = x.astype(np.float32)
    return out


def write_model(name, s, type_name, weights):
    path = os.path.join(HERE, name + ".gguf")
    s.check()
    mixed = type_name.endswith("_M")
    base = type_name[:-2] if mixed else type_name
    meta = {**model_spec.metadata(s, name, type_name), **model_spec.tokenizer_metadata(s.arch, s.vocab)}
    write_gguf(path, meta, [tensor_of(t.name, weights[t.name], model_spec.tensor_type(s, t, base, mixed))
                            for t in model_spec.tensor_specs(s)])
    return path


# ---- Hugging Face ----

def hf_rope_scaling(s):
    r = s.rope
    if r.kind == "none":
        return None
    out = {"rope_type": r.kind, "factor": r.factor}
    if r.kind != "linear":
        out["original_max_position_embeddings"] = r.original_ctx
    if r.kind == "llama3":
        out.update(low_freq_factor=r.low_freq_factor, high_freq_factor=r.high_freq_factor)
    if r.kind == "yarn" and r.attn_factor != 1:
        out["attention_factor"] = r.attn_factor * (0.1 * np.log(r.factor) + 1)
    return out


def hf_model(s):
    import torch
    import transformers as hf

    common = dict(
        vocab_size=s.vocab, hidden_size=s.embd, intermediate_size=s.ff, num_hidden_layers=s.layers,
        num_attention_heads=s.heads, num_key_value_heads=s.kv_heads, head_dim=s.head_dim,
        max_position_embeddings=s.ctx, rms_norm_eps=s.rms_eps, rope_theta=s.rope_base,
        rope_scaling=hf_rope_scaling(s), tie_word_embeddings=s.tied, attn_implementation="eager",
        bos_token_id=None, eos_token_id=None, pad_token_id=None)
    if s.arch == "qwen2":
        config, kind = hf.Qwen2Config(**common), hf.Qwen2ForCausalLM
    elif s.arch == "qwen3":
        config, kind = hf.Qwen3Config(**common), hf.Qwen3ForCausalLM
    elif s.arch == "qwen3moe":
        config = hf.Qwen3MoeConfig(**common, num_experts=s.experts, num_experts_per_tok=s.experts_used,
                                   moe_intermediate_size=s.expert_ff, norm_topk_prob=True)
        kind = hf.Qwen3MoeForCausalLM
    elif s.experts:
        config = hf.MixtralConfig(**{**common, "intermediate_size": s.expert_ff}, num_local_experts=s.experts,
                                  num_experts_per_tok=s.experts_used, sliding_window=None)
        kind = hf.MixtralForCausalLM
    elif s.sliding_window or (s.head_dim != s.embd // s.heads):
        config = hf.MistralConfig(**common, sliding_window=s.sliding_window or None)
        kind = hf.MistralForCausalLM
    else:
        config, kind = hf.LlamaConfig(**common, attention_bias=s.attn_bias), hf.LlamaForCausalLM
    torch.manual_seed(0)
    return kind(config).double().eval()


def hf_name(spec_name):
    """The Hugging Face name of a GGUF tensor; an expert's number stands as {e}."""
    top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
           "output.weight": "lm_head.weight"}
    if spec_name in top:
        return top[spec_name]
    _, layer, part, *rest = spec_name.split(".")
    attn = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj",
            "attn_q_norm": "q_norm", "attn_k_norm": "k_norm"}
    norms = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    at = f"model.layers.{layer}."
    if part in attn:
        return f"{at}self_attn.{attn[part]}.{rest[-1]}"
    if part in norms:
        return f"{at}{norms[part]}.weight"
    return f"{at}mlp.{part[4:]}_proj.weight"


MIXTRAL_PARTS = {"gate": "w1", "down": "w2", "up": "w3"}


def hf_expert_name(s, layer, part, e):
    if s.arch == "llama":
        return f"model.layers.{layer}.block_sparse_moe.experts.{e}.{MIXTRAL_PARTS[part]}.weight"
    return f"model.layers.{layer}.mlp.experts.{e}.{part}_proj.weight"


def pair_neighbours(w, heads):
    """Reorders a head's rows so that the RoPE pair (i, i + d/2) becomes (2i, 2i + 1), the order in
    which llama-architecture files store queries and keys."""
    d = w.shape[0] // heads
    return w.reshape(heads, 2, d // 2, -1).swapaxes(1, 2).reshape(w.shape)


def gguf_weights(s, state):
    """A Hugging Face state dict as the tensors of a GGUF file."""
    out = {}
    for spec in model_spec.tensor_specs(s):
        part = spec.name.split(".")
        if spec.role == "rope_freqs":
            w = np.array(model_spec.rope_freq_factors(s), np.float32)
        elif spec.role == "router":
            block = "block_sparse_moe" if s.arch == "llama" else "mlp"
            w = state[f"model.layers.{part[1]}.{block}.gate.weight"]
        elif spec.name.endswith("_exps.weight"):
            kind = part[2][4:-5]
            w = np.stack([state[hf_expert_name(s, part[1], kind, e)] for e in range(s.experts)])
        elif len(part) == 5:
            w = state[hf_expert_name(s, part[1], part[2][4:], part[3])]
        else:
            w = state[hf_name(spec.name)]
            if s.arch == "llama" and part[-2] in ("attn_q", "attn_k"):
                w = pair_neighbours(w, s.heads if part[-2] == "attn_q" else s.kv_heads)
        if w.shape != tuple(spec.shape):
            raise ValueError(f"{spec.name}: {w.shape}, not {spec.shape}")
        out[spec.name] = w
    return out


def randomise(model, seed):
    """Gives a model's parameters the same spread as random_weights; returns name -> float32 array."""
    import torch

    state = {}
    for key, p in sorted(model.named_parameters()):
        x = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(tuple(p.shape))
        if key.endswith("bias"):
            x = 0.3 * x
        elif "norm" in key:
            x = 1 + 0.2 * x
        elif "embed" in key:
            x = 0.3 * x
        else:
            x *= (1.5 if "q_proj" in key or "k_proj" in key else 1.0) / np.sqrt(p.shape[-1])
        state[key] = x.astype(np.float32)
        with torch.no_grad():
            p.copy_(torch.from_numpy(state[key]))
    return state


def make_hf(name, s):
    import torch

    model = hf_model(s)
    state = randomise(model, zlib.crc32(name.replace("-separate", "").encode()))
    path = write_model(name, s, "F32", gguf_weights(s, state))
    tokens, positions, ours = stable_prompt(name, path, s)
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)[None]).logits[0].numpy()[positions]
    apart = difference(ours, logits)
    if not apart < AGREE:
        raise SystemExit(f"{name}: transformers and NumPy are {apart:.2e} apart")
    save(name, path, tokens, positions, logits, f"transformers and NumPy {apart:.1e} apart")


# ---- NumPy ----

def make_numpy(name, s, type_name):
    path = write_model(name, s, type_name, random_weights(s, zlib.crc32(name.encode())))
    save(name, path, *stable_prompt(name, path, s), "")


def save(name, path, tokens, positions, logits, note):
    errors = expected_errors(path, tokens, positions, logits)
    tolerances = [3 * errors[0], 2 * errors[1]]
    write_vec(os.path.join(HERE, name + ".vec"), tokens, positions, logits, tolerances)
    print(f"{name:17s} {os.path.getsize(path):7d} bytes {len(tokens)} tokens, logits' rms "
          f"{np.sqrt(np.mean(logits ** 2)):.2f}, tolerances {tolerances[0]:.1e} {tolerances[1]:.1e} {note}", flush=True)


def check():
    bad = 0
    for name in [*HF_MODELS, *NUMPY_MODELS]:
        tokens, positions, logits, _ = read_vec(os.path.join(HERE, name + ".vec"))
        apart = difference(Model(os.path.join(HERE, name + ".gguf")).logits(tokens)[positions], logits)
        ok = apart < AGREE
        bad += not ok
        print(f"{name:18s} {apart:.1e} apart{'' if ok else '  WRONG'}")
    print(f"{len(HF_MODELS) + len(NUMPY_MODELS) - bad} passed, {bad} failed")
    return bad != 0


def main():
    p = argparse.ArgumentParser(description="Make the golden models and vectors.")
    p.add_argument("--numpy", action="store_true", help="only those that need NumPy alone")
    p.add_argument("--check", action="store_true", help="compare NumPy's forward pass with the files")
    args = p.parse_args()
    if args.check:
        return check()
    for name, (s, type_name) in NUMPY_MODELS.items():
        make_numpy(name, s, type_name)
    if not args.numpy:
        for name, s in HF_MODELS.items():
            make_hf(name, s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
