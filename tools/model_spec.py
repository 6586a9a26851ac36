# SPDX-License-Identifier: Apache-2.0
"""The shape of a transformer in GGUF terms: which metadata keys and tensors a model file of an
architecture holds, how its tensors are typed by the usual recipes, and a small tokenizer that
makes any of them servable."""

import math
from dataclasses import dataclass, field

from gguf_writer import Typed
from quants import TYPES

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe")

# general.file_type by the type of most tensors, or by the recipe's name.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10,
              "Q3_K": 12, "Q4_K": 14, "Q4_K_M": 15, "Q5_K": 16, "Q5_K_M": 17, "Q6_K": 18,
              "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32, "MXFP4": 38}


@dataclass
class RopeScaling:
    kind: str = "none"  # none, linear, yarn, or llama3 (which becomes the tensor rope_freqs)
    factor: float = 1.0
    original_ctx: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attn_factor: float = 1.0  # yarn: times its own 1 + 0.1 ln(factor)


@dataclass
class Shape:
    arch: str
    layers: int
    embd: int
    ff: int            # of a dense layer
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    ctx: int
    rms_eps: float = 1e-5
    rope_base: float = 10000.0
    rope: RopeScaling = field(default_factory=RopeScaling)
    tied: bool = False
    attn_bias: bool = False      # llama only: biases of q, k, v and output
    sliding_window: int = 0      # positions a token sees, itself included; 0: all
    experts: int = 0
    experts_used: int = 0
    expert_ff: int = 0
    separate_experts: bool = False  # the older layout: one tensor an expert

    def check(self):
        if self.arch not in ARCHITECTURES:
            raise ValueError(f"architecture {self.arch}: want one of {', '.join(ARCHITECTURES)}")
        for name in ("layers", "embd", "heads", "kv_heads", "head_dim", "ctx"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} KV heads evenly")
        if self.head_dim % 2:
            raise ValueError("head_dim must be even for RoPE")
        if not 0 <= self.experts_used <= self.experts or bool(self.experts) != bool(self.experts_used):
            raise ValueError(f"{self.experts_used} of {self.experts} experts used")
        if (self.arch == "qwen3moe") != bool(self.experts) and self.arch != "llama":
            raise ValueError(f"{self.arch} with {self.experts} experts")
        if self.rope.kind not in ("none", "linear", "yarn", "llama3"):
            raise ValueError(f"RoPE scaling {self.rope.kind}: want none, linear, yarn or llama3")
        if self.vocab < MIN_VOCAB:
            raise ValueError(f"a vocabulary of {self.vocab}: the tokenizer needs {MIN_VOCAB}")


@dataclass
class TensorSpec:
    name: str
    shape: tuple
    role: str  # embedding, output, matrix, router, norm, bias or rope_freqs


def rope_freq_factors(s):
    """What Llama 3.1 divides each pair's frequency by: 1 for short wavelengths, `factor` for long
    ones, a blend between."""
    r, out = s.rope, []
    long_wave, short_wave = r.original_ctx / r.low_freq_factor, r.original_ctx / r.high_freq_factor
    for i in range(s.head_dim // 2):
        wave = 2 * math.pi * s.rope_base ** (2 * i / s.head_dim)
        if wave < short_wave:
            out.append(1.0)
        elif wave > long_wave:
            out.append(r.factor)
        else:
            blend = (r.original_ctx / wave - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor)
            out.append(1 / ((1 - blend) / r.factor + blend))
    return out


def tensor_specs(s):
    """Every tensor of the model, in file order; shapes rows first."""
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    out = [TensorSpec("token_embd.weight", (s.vocab, s.embd), "embedding")]
    if s.rope.kind == "llama3":
        out.append(TensorSpec("rope_freqs.weight", (s.head_dim // 2,), "rope_freqs"))

    for i in range(s.layers):
        def add(name, shape, role="matrix"):
            out.append(TensorSpec(f"blk.{i}.{name}", shape, role))

        add("attn_norm.weight", (s.embd,), "norm")
        add("attn_q.weight", (q, s.embd))
        add("attn_k.weight", (kv, s.embd))
        add("attn_v.weight", (kv, s.embd))
        add("attn_output.weight", (s.embd, q))
        if s.arch == "qwen2" or s.attn_bias:
            add("attn_q.bias", (q,), "bias")
            add("attn_k.bias", (kv,), "bias")
            add("attn_v.bias", (kv,), "bias")
        if s.attn_bias:
            add("attn_output.bias", (s.embd,), "bias")
        if s.arch in ("qwen3", "qwen3moe"):
            add("attn_q_norm.weight", (s.head_dim,), "norm")
            add("attn_k_norm.weight", (s.head_dim,), "norm")
        add("ffn_norm.weight", (s.embd,), "norm")
        if not s.experts:
            add("ffn_gate.weight", (s.ff, s.embd))
            add("ffn_up.weight", (s.ff, s.embd))
            add("ffn_down.weight", (s.embd, s.ff))
            continue
        add("ffn_gate_inp.weight", (s.experts, s.embd), "router")
        for part, shape in (("gate", (s.expert_ff, s.embd)), ("up", (s.expert_ff, s.embd)),
                            ("down", (s.embd, s.expert_ff))):
            if s.separate_experts:
                for e in range(s.experts):
                    add(f"ffn_{part}.{e}.weight", shape)
            else:
                add(f"ffn_{part}_exps.weight", (s.experts, *shape))

    out.append(TensorSpec("output_norm.weight", (s.embd,), "norm"))
    if not s.tied:
        out.append(TensorSpec("output.weight", (s.vocab, s.embd), "output"))
    return out


def metadata(s, name, file_type):
    a = s.arch
    m = {
        "general.architecture": a,
        "general.name": name,
        "general.file_type": Typed("u32", FILE_TYPES[file_type]),
        "general.quantization_version": Typed("u32", 2),
        f"{a}.block_count": s.layers,
        f"{a}.context_length": s.ctx,
        f"{a}.embedding_length": s.embd,
        # Mixtral has no other width than its experts'; Qwen3 MoE names both.
        f"{a}.feed_forward_length": s.expert_ff if s.experts and a == "llama" else s.ff,
        f"{a}.attention.head_count": s.heads,
        f"{a}.attention.head_count_kv": s.kv_heads,
        f"{a}.attention.key_length": s.head_dim,
        f"{a}.attention.value_length": s.head_dim,
        f"{a}.attention.layer_norm_rms_epsilon": float(s.rms_eps),
        f"{a}.rope.dimension_count": s.head_dim,
        f"{a}.rope.freq_base": float(s.rope_base),
        f"{a}.vocab_size": s.vocab,
    }
    if s.sliding_window:
        m[f"{a}.attention.sliding_window"] = s.sliding_window
    if s.rope.kind in ("linear", "yarn"):
        m[f"{a}.rope.scaling.type"] = s.rope.kind
        m[f"{a}.rope.scaling.factor"] = float(s.rope.factor)
    if s.rope.kind == "yarn":
        m[f"{a}.rope.scaling.original_context_length"] = s.rope.original_ctx
        if s.rope.attn_factor != 1:
            m[f"{a}.rope.scaling.attn_factor"] = float(s.rope.attn_factor)
    if s.experts:
        m[f"{a}.expert_count"] = s.experts
        m[f"{a}.expert_used_count"] = s.experts_used
        if a != "llama":
            m[f"{a}.expert_feed_forward_length"] = s.expert_ff
    return m


# ---- types of tensors ----

# Where a row is not a whole number of a super-block type's blocks, the type to take instead.
SMALLER_BLOCK = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1",
                 "Q6_K": "Q8_0"}


def fitting_type(type_name, row):
    if row % TYPES[type_name].elems and type_name in SMALLER_BLOCK:
        type_name = SMALLER_BLOCK[type_name]
    return type_name if row % TYPES[type_name].elems == 0 else "F16"


def layer_gets_more_bits(layer, layers):
    """The layers whose attn_v and ffn_down the K_M mixes keep in Q6_K: the first and last eighth
    and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def tensor_type(s, spec, type_name, mixed):
    """The type that a recipe stores a tensor in: vectors and routers in F32, matrices in
    `type_name`, and with `mixed` the more sensitive ones in Q6_K."""
    if spec.role in ("norm", "bias", "router", "rope_freqs"):
        return "F32"
    if mixed:
        is_output = spec.role == "output" or (spec.role == "embedding" and s.tied)
        part = spec.name.split(".")
        sensitive = len(part) > 2 and part[2].startswith(("attn_v", "ffn_down"))
        if is_output or (sensitive and layer_gets_more_bits(int(part[1]), s.layers)):
            type_name = "Q6_K"
    return fitting_type(type_name, spec.shape[-1])


# ---- tokenizer ----

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
MIN_VOCAB = 256 + len(SPECIAL_TOKENS)
CONSONANTS, VOWELS = "bcdfghjklmnprstvwxyz", "aeiou"
SPACE = "\u0120"  # the byte 0x20 in the byte-level alphabet

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def byte_alphabet():
    """The printable character that byte-level BPE writes for each byte: printable Latin-1 stands
    for itself, the others are numbered from U+0100."""
    keep = set(range(0x21, 0x7F)) | set(range(0xA1, 0xAD)) | set(range(0xAE, 0x100))
    rest = [b for b in range(256) if b not in keep]
    return [chr(b) if b in keep else chr(0x100 + rest.index(b)) for b in range(256)]


def syllable_words():
    """(token, merge) without end: syllables, syllables after a space, then words of two, three,
    ... syllables after a space. Each is reached by merging in this order."""
    syllables = [c + v for c in CONSONANTS for v in VOWELS]
    yield from ((x, f"{x[0]} {x[1]}") for x in syllables)
    stems = [SPACE]
    while True:
        longer = []
        for stem in stems:
            for x in syllables:
                longer.append(stem + x)
                yield stem + x, f"{stem} {x}"
        stems = longer


def tokenizer_metadata(arch, vocab):
    """A byte-level BPE tokenizer of exactly `vocab` unique tokens: 256 bytes, made-up words, and
    the special tokens last."""
    tokens, merges = byte_alphabet(), []
    words = syllable_words()
    for _ in range(vocab - MIN_VOCAB):
        token, merge = next(words)
        tokens.append(token)
        merges.append(merge)
    first_special = len(tokens)
    tokens += SPECIAL_TOKENS
    special = {t: first_special + i for i, t in enumerate(SPECIAL_TOKENS)}
    normal, control = 1, 3
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe" if arch == "llama" else "qwen2",
        "tokenizer.ggml.tokens": Typed("str", tokens),
        "tokenizer.ggml.token_type": Typed("i32", [normal] * first_special + [control] * len(SPECIAL_TOKENS)),
        "tokenizer.ggml.merges": Typed("str", merges),
        "tokenizer.ggml.bos_token_id": special["<|bos|>"],
        "tokenizer.ggml.eos_token_id": special["<|eos|>"],
        "tokenizer.ggml.eot_token_id": special["<|im_end|>"],
        "tokenizer.ggml.add_bos_token": arch == "llama",
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


# ---- presets: shapes of public models, and a tiny one for each architecture ----

def preset_shapes():
    llama3 = dict(arch="llama", heads=32, kv_heads=8, vocab=128256, ctx=131072, rope_base=500000.0)
    qwen = dict(vocab=151936, rms_eps=1e-6, rope_base=1e6)
    tiny = dict(layers=2, embd=256, ff=512, heads=4, kv_heads=2, head_dim=64, vocab=512, ctx=2048)
    return {
        "llama-1b": Shape(**llama3, layers=16, embd=2048, ff=8192, head_dim=64, tied=True,
                          rope=RopeScaling("llama3", 32.0, 8192)),
        "llama-3b": Shape(**{**llama3, "heads": 24}, layers=28, embd=3072, ff=8192, head_dim=128, tied=True,
                          rope=RopeScaling("llama3", 32.0, 8192)),
        "llama-8b": Shape(**llama3, layers=32, embd=4096, ff=14336, head_dim=128,
                          rope=RopeScaling("llama3", 8.0, 8192)),
        "llama-7b": Shape("llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096),
        "mistral-7b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 32000, 32768, sliding_window=4096),
        "mixtral-8x7b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 32000, 32768, rope_base=1e6,
                              experts=8, experts_used=2, expert_ff=14336),
        "qwen2-0.5b": Shape("qwen2", 24, 896, 4864, 14, 2, 64, ctx=32768, tied=True, **qwen),
        "qwen3-0.6b": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, ctx=40960, tied=True, **qwen),
        "qwen3-30b-a3b": Shape("qwen3moe", 48, 2048, 6144, 32, 4, 128, ctx=40960, experts=128,
                               experts_used=8, expert_ff=768, **qwen),
        "tiny-llama": Shape("llama", **tiny, tied=True),
        "tiny-llama3": Shape("llama", **tiny, rope_base=500000.0, rope=RopeScaling("llama3", 8.0, 512)),
        "tiny-mistral": Shape("llama", **tiny, sliding_window=64),
        "tiny-qwen2": Shape("qwen2", **tiny, rms_eps=1e-6, rope_base=1e6, tied=True),
        "tiny-qwen3": Shape("qwen3", **{**tiny, "head_dim": 128}, rms_eps=1e-6, rope_base=1e6, tied=True),
        "tiny-mixtral": Shape("llama", **tiny, rope_base=1e6, experts=4, experts_used=2, expert_ff=512),
        "tiny-qwen3moe": Shape("qwen3moe", **{**tiny, "head_dim": 128}, rms_eps=1e-6, rope_base=1e6,
                               experts=8, experts_used=2, expert_ff=256),
    }
