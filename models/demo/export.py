"""GGUF v3 output of the demo model, weights in Q8_0, and a reader of that file for checks. NumPy only.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Q8_0: blocks of 32 weights, an F16 scale d and 32 int8 q;
weight = d * q.
"""
import struct

import numpy as np

from tokenizer import CHAT_TEMPLATE, SPECIALS, Tokenizer

ALIGNMENT = 32
F32, Q8_0 = 0, 8
U32, FLOAT32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
NORMAL, CONTROL, UNUSED_TOKEN = 1, 3, 5
STACKED = {"attention_norm": "attn_norm", "wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output", "ffn_norm": "ffn_norm",
           "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}


def quantise_q8_0(x):
    """x: [rows, columns], columns a multiple of 32 -> bytes"""
    blocks = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(1) / 127
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    out = np.empty(len(blocks), dtype=[("d", "<f2"), ("q", "i1", 32)])
    out["d"] = scale
    out["q"] = np.rint(blocks * inverse[:, None])
    return out.tobytes()


def dequantise_q8_0(raw, shape):
    blocks = np.frombuffer(raw, dtype=[("d", "<f2"), ("q", "i1", 32)])
    return (blocks["d"].astype(np.float32)[:, None] * blocks["q"].astype(np.float32)).reshape(shape)


def tensors(config, weights):
    """(GGUF name, array) in file order; the output matrix is the embedding."""
    yield "token_embd.weight", weights["embedding"]
    for i in range(config.layers):
        for ours, theirs in STACKED.items():
            yield f"blk.{i}.{theirs}.weight", weights[ours][i]
    yield "output_norm.weight", weights["output_norm"]


def metadata(config, tok, parameters):
    types = [NORMAL] * (len(tok.tokens) - len(SPECIALS)) + [CONTROL] * len(SPECIALS)
    types[-1] = UNUSED_TOKEN
    return [
        ("general.architecture", STRING, "llama"), ("general.type", STRING, "model"), ("general.name", STRING, "weir-demo"), ("general.basename", STRING, "weir-demo"),
        ("general.description", STRING, "A small synthetic world: short chat, small sums, tiny stories, and recall of facts stated earlier."),
        ("general.license", STRING, "apache-2.0"), ("general.size_label", STRING, f"{parameters / 1e6:.0f}M"), ("general.languages", ARRAY, (STRING, ["en"])),
        ("general.file_type", U32, 7), ("general.quantization_version", U32, 2), ("general.alignment", U32, ALIGNMENT),
        ("llama.vocab_size", U32, len(tok.tokens)), ("llama.context_length", U32, config.context), ("llama.embedding_length", U32, config.width),
        ("llama.block_count", U32, config.layers), ("llama.feed_forward_length", U32, config.ffn_width), ("llama.attention.head_count", U32, config.heads),
        ("llama.attention.head_count_kv", U32, config.kv_heads), ("llama.attention.key_length", U32, config.head_width), ("llama.attention.value_length", U32, config.head_width),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, config.epsilon), ("llama.rope.dimension_count", U32, config.head_width), ("llama.rope.freq_base", FLOAT32, config.rope_base),
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "llama-bpe"), ("tokenizer.ggml.tokens", ARRAY, (STRING, tok.tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, types)), ("tokenizer.ggml.merges", ARRAY, (STRING, [" ".join(m) for m in tok.merges])),
        ("tokenizer.ggml.bos_token_id", U32, tok.bos), ("tokenizer.ggml.eos_token_id", U32, tok.end), ("tokenizer.ggml.eot_token_id", U32, tok.end),
        ("tokenizer.ggml.padding_token_id", U32, tok.pad), ("tokenizer.ggml.add_bos_token", BOOL, True), ("tokenizer.ggml.add_eos_token", BOOL, False),
        ("tokenizer.chat_template", STRING, CHAT_TEMPLATE),
    ]


def _string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind, value):
    if kind == ARRAY:
        item, items = value
        return struct.pack("<IQ", item, len(items)) + b"".join(_value(item, x) for x in items)
    if kind == STRING:
        return _string(value)
    return struct.pack({U32: "<I", I32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], value)


def write_gguf(path, config, tok, weights):
    listed = list(tensors(config, weights))
    meta = metadata(config, tok, sum(x.size for _, x in listed))
    head = struct.pack("<IIQQ", 0x46554747, 3, len(listed), len(meta)) + b"".join(_string(k) + struct.pack("<I", t) + _value(t, v) for k, t, v in meta)
    body, offset = [], 0
    for name, x in listed:
        raw = quantise_q8_0(x) if x.ndim == 2 else x.astype("<f4").tobytes()
        head += _string(name) + struct.pack("<I", x.ndim) + struct.pack(f"<{x.ndim}Q", *reversed(x.shape)) + struct.pack("<IQ", Q8_0 if x.ndim == 2 else F32, offset)
        raw += bytes(-len(raw) % ALIGNMENT)
        body.append(raw)
        offset += len(raw)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGNMENT))
        f.write(b"".join(body))


def read_gguf(path):
    """({key: value}, {tensor name: float32 array}) of a file with F32 and Q8_0 tensors."""
    with open(path, "rb") as f:
        raw = f.read()
    at = 0

    def take(fmt):
        nonlocal at
        values = struct.unpack_from(fmt, raw, at)
        at += struct.calcsize(fmt)
        return values if len(values) > 1 else values[0]

    def string():
        nonlocal at
        n = take("<Q")
        at += n
        return raw[at - n:at].decode()

    def value(kind):
        if kind == ARRAY:
            item, n = take("<IQ")
            return [value(item) for _ in range(n)]
        return string() if kind == STRING else take({U32: "<I", I32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind])

    magic, version, tensor_count, key_count = take("<IIQQ")
    assert magic == 0x46554747 and version == 3
    meta = {}
    for _ in range(key_count):
        key = string()
        meta[key] = value(take("<I"))
    infos = []
    for _ in range(tensor_count):
        name = string()
        dims = [take("<Q") for _ in range(take("<I"))]
        kind, offset = take("<IQ")
        infos.append((name, dims[::-1], kind, offset))
    data = at + -at % meta["general.alignment"]
    out = {}
    for name, shape, kind, offset in infos:
        n = int(np.prod(shape))
        begin = data + offset
        out[name] = np.frombuffer(raw, "<f4", n, begin).reshape(shape) if kind == F32 else dequantise_q8_0(raw[begin:begin + n // 32 * 34], shape)
    return meta, out


def dequantised(path, config):
    """The file's weights in the training layout."""
    _, t = read_gguf(path)
    out = {ours: np.stack([t[f"blk.{i}.{theirs}.weight"] for i in range(config.layers)]) for ours, theirs in STACKED.items()}
    return {**out, "embedding": t["token_embd.weight"], "output_norm": t["output_norm.weight"]}


def tokenizer_of(path):
    meta, _ = read_gguf(path)
    return Tokenizer([m.split(" ") for m in meta["tokenizer.ggml.merges"]])
