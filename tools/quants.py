# SPDX-License-Identifier: Apache-2.0
"""The tensor types of GGUF files: pack, unpack and draw blocks of each, with NumPy alone.

A tensor type stores a row as a sequence of blocks. A block of `elems` values takes
`size` bytes. All integers and floats are little-endian. Every pack/unpack/draw
function works on many blocks at once:

    pack    float32 [n, elems]   -> uint8 [n, size]
    unpack  uint8   [n, size]    -> float32 [n, elems]
    draw    (rng, n, sigma)      -> uint8 [n, size], valid random blocks whose values have
                                    zero mean and a standard deviation of about sigma

Unpacking follows the order of float32 operations of the format's reference, so results
agree to the last bit. Packing is the plain round-to-nearest of the format's scale rule,
without a search for better scales: correct, not optimal.
"""

from typing import Callable, NamedTuple

import numpy as np

# Code book of IQ4_NL and IQ4_XS, and of MXFP4 (twice the E2M1 values, codes 8.. negative).
IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)

SUPER = 256  # elements of a super-block of the K types


class TensorType(NamedTuple):
    name: str
    id: int     # number of the type in a GGUF file
    elems: int  # values a block
    size: int   # bytes a block
    pack: Callable
    unpack: Callable
    draw: Callable

    def row_bytes(self, n_elems: int) -> int:
        if n_elems % self.elems:
            raise ValueError(f"a row of {n_elems} values is not a whole number of {self.name} "
                             f"blocks of {self.elems}")
        return n_elems // self.elems * self.size


# ---- pieces that the types share ----

def split_fields(b, bits, group):
    """Bit fields of bytes. Each `group` bytes give 8/bits runs of `group` values, the lowest
    bits of all bytes first: uint8 [n, k] -> uint8 [n, k * 8 / bits]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    x = b.reshape(len(b), -1, 1, group) >> shifts
    return (x & np.uint8((1 << bits) - 1)).reshape(len(b), -1)


def join_fields(q, bits, group):
    """Inverse of split_fields."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    x = q.astype(np.uint8).reshape(len(q), -1, 8 // bits, group) << shifts
    return np.bitwise_or.reduce(x, axis=2).reshape(len(q), -1)


def f16_bytes(x):
    """float [n] or [n, 1] -> its float16 as uint8 [n, 2]."""
    return np.ascontiguousarray(x.reshape(-1, 1), dtype="<f2").view(np.uint8)


def f16_value(b):
    """uint8 [n, 2] -> float32 [n, 1]."""
    return np.ascontiguousarray(b).view("<f2").astype(np.float32)


def round_f16(x):
    return x.astype(np.float16).astype(np.float32)


def over(x, d):
    """x / d, and 0 where d is 0."""
    return np.divide(x, d, out=np.zeros(np.broadcast(x, d).shape, np.float32), where=d != 0)


def signed_peak(x):
    """The value of largest magnitude along the last axis, with its sign, kept as an axis of 1."""
    at = np.abs(x).argmax(axis=-1, keepdims=True)
    return np.take_along_axis(x, at, axis=-1)


def to_code(x, lo, hi):
    return np.clip(np.rint(x), lo, hi).astype(np.int32)


def nearest_code(x, values):
    """Index of the nearest entry of ascending `values`."""
    return np.searchsorted((values[1:] + values[:-1]) / 2, x).astype(np.uint8)


def random_bytes(rng, n, k):
    words = rng.integers(0, 1 << 64, size=(n * k + 7) // 8, dtype=np.uint64)
    return words.view(np.uint8)[:n * k].reshape(n, k)


def random_scale(rng, n, centre, signed):
    """n positive or signed scales within +-25 % of centre, as float16 bytes."""
    x = centre * (0.75 + 0.5 * rng.random((n, 1), dtype=np.float32))
    if signed:
        x = np.where(rng.integers(0, 2, (n, 1), dtype=np.uint8) != 0, x, -x)
    return f16_bytes(x)


def cat(*parts):
    return np.concatenate(parts, axis=1)


# ---- float types: a block is one value ----

def f32_pack(x):
    return np.ascontiguousarray(x, dtype="<f4").view(np.uint8).reshape(len(x), 4)


def f32_unpack(b):
    return np.ascontiguousarray(b).view("<f4").astype(np.float32)


def f32_draw(rng, n, sigma):
    return f32_pack(rng.standard_normal((n, 1), dtype=np.float32) * np.float32(sigma))


def f16_unpack(b):
    return f16_value(b)


def bf16_pack(x):
    u = np.ascontiguousarray(x, dtype="<f4").view("<u4")
    rounded = (u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (u >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(x), quiet_nan, rounded).astype("<u2").view(np.uint8)


def bf16_unpack(b):
    return (np.ascontiguousarray(b).view("<u2").astype("<u4") << np.uint32(16)).view("<f4")


def half_draw(mantissa_bits, bias):
    """Random 16-bit floats: any sign and mantissa, one of the four exponents below a peak.
    Mean square of 2^(e-k)(1+u), k = 0..3, u uniform in [0, 1): 0.775 * 4^e."""
    def draw(rng, n, sigma):
        top = int(np.round(np.log2(sigma / np.sqrt(0.775)))) + bias
        if not 4 <= top < 2 * bias:
            raise ValueError(f"sigma {sigma} is out of the type's range")
        r = random_bytes(rng, n, 2).view("<u2")
        keep = np.uint16(0x8000 | ((1 << mantissa_bits) - 1))
        below = random_bytes(rng, n, 1) & np.uint8(3)
        exponent = (np.uint16(top) - below.astype(np.uint16)) << np.uint16(mantissa_bits)
        return ((r & keep) | exponent).astype("<u2").view(np.uint8)
    return draw


# ---- blocks of 32 ----

def q8_0_pack(x):
    d = round_f16(np.abs(x).max(axis=1, keepdims=True) / 127)
    return cat(f16_bytes(d), to_code(over(x, d), -127, 127).astype(np.int8).view(np.uint8))


def q8_0_unpack(b):
    return f16_value(b[:, :2]) * b[:, 2:].view(np.int8).astype(np.float32)


def q8_0_draw(rng, n, sigma):
    q = random_bytes(rng, n, 32).view(np.int8)
    np.maximum(q, -127, out=q)  # quantisers never emit -128, kernels may rely on it
    return cat(random_scale(rng, n, sigma / 73.6, True), q.view(np.uint8))


def legacy(bits, offset):
    """Q4_0, Q5_0 (offset) and Q4_1, Q5_1 (minimum instead): scale, [minimum], [fifth bits], nibbles."""
    top = (1 << bits) - 1
    half = 1 << (bits - 1)
    deviation = np.sqrt(((1 << bits) ** 2 - 1) / 12)  # of a uniform code

    def codes_to_bytes(q):
        low = join_fields(q & 15, 4, 16)
        if bits == 4:
            return low
        return cat(np.packbits((q >> 4).astype(np.uint8), axis=1, bitorder="little"), low)

    def bytes_to_codes(b):
        if bits == 4:
            return split_fields(b, 4, 16)
        high = np.unpackbits(b[:, :4], axis=1, bitorder="little")
        return split_fields(b[:, 4:], 4, 16) | (high << np.uint8(4))

    def pack(x):
        if offset:
            d = round_f16(signed_peak(x) / -half)
            return cat(f16_bytes(d), codes_to_bytes(to_code(over(x, d) + half, 0, top)))
        m = round_f16(x.min(axis=1, keepdims=True))
        d = round_f16((x.max(axis=1, keepdims=True) - m) / top)
        return cat(f16_bytes(d), f16_bytes(m), codes_to_bytes(to_code(over(x - m, d), 0, top)))

    def unpack(b):
        d = f16_value(b[:, :2])
        if offset:
            return d * (bytes_to_codes(b[:, 2:]).astype(np.float32) - half)
        return d * bytes_to_codes(b[:, 4:]).astype(np.float32) + f16_value(b[:, 2:4])

    def draw(rng, n, sigma):
        q = random_bytes(rng, n, 16 if bits == 4 else 20)
        d = random_scale(rng, n, sigma / deviation, offset)
        if offset:
            return cat(d, q)
        return cat(d, f16_bytes(f16_value(d) * np.float32(-top / 2)), q)

    return pack, unpack, draw


def iq4_nl_pack(x):
    d = round_f16(signed_peak(x) / IQ4_VALUES[0])
    return cat(f16_bytes(d), join_fields(nearest_code(over(x, d), IQ4_VALUES), 4, 16))


def iq4_nl_unpack(b):
    return f16_value(b[:, :2]) * IQ4_VALUES[split_fields(b[:, 2:], 4, 16)]


def iq4_nl_draw(rng, n, sigma):
    return cat(random_scale(rng, n, sigma / IQ4_VALUES.std(), True), random_bytes(rng, n, 16))


def mxfp4_scale(e):
    """Half of 2^(e-127), for the code book holds twice the values. uint8 [n, 1] -> float32."""
    return np.ldexp(np.float32(1), e.astype(np.int32) - 128).astype(np.float32)


def mxfp4_pack(x):
    _, exponent = np.frexp(np.abs(x).max(axis=1, keepdims=True))  # peak = m * 2^exponent, m < 1
    e = np.clip(exponent - 1 - 2 + 127, 0, 254).astype(np.uint8)
    v = x / mxfp4_scale(e)
    code = nearest_code(np.abs(v), MXFP4_VALUES[:8]) | np.where(v < 0, 8, 0).astype(np.uint8)
    return cat(e, join_fields(code, 4, 16))


def mxfp4_unpack(b):
    return mxfp4_scale(b[:, :1]) * MXFP4_VALUES[split_fields(b[:, 1:], 4, 16)]


def mxfp4_draw(rng, n, sigma):
    # Exponents one below, at and one above the centre: mean square factor (1/4 + 1 + 4) / 3.
    spread = np.sqrt(5.25 / 3) * MXFP4_VALUES.std()
    centre = int(np.round(np.log2(sigma / spread))) + 128
    e = (centre - 1 + rng.integers(0, 3, (n, 1))).astype(np.uint8)
    return cat(e, random_bytes(rng, n, 16))


# ---- super-blocks of 256 ----

def join_scales6(sc, m):
    """Eight 6-bit scales and eight 6-bit minima, [n, 8] each -> uint8 [n, 12] (Q4_K, Q5_K)."""
    sc, m = sc.astype(np.uint8), m.astype(np.uint8)
    first = sc[:, :4] | ((sc[:, 4:] >> 4) << 6)
    second = m[:, :4] | ((m[:, 4:] >> 4) << 6)
    third = (sc[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)
    return cat(first, second, third)


def split_scales6(b):
    first, second, third = b[:, :4], b[:, 4:8], b[:, 8:]
    sc = cat(first & 63, (third & 15) | ((first >> 6) << 4))
    m = cat(second & 63, (third >> 4) | ((second >> 6) << 4))
    return sc, m


def pack_scaled_min(x, n_sub, top_code, top_scale):
    """Codes of x = d*sc*q - dmin*m by sub-block: d, dmin [n, 1], sc, m [n, n_sub], q [n, 256]."""
    sub = x.reshape(len(x), n_sub, -1)
    low = np.minimum(sub.min(axis=2), 0)
    step = (sub.max(axis=2).clip(min=0) - low) / top_code
    d = round_f16(step.max(axis=1, keepdims=True) / top_scale)
    dmin = round_f16(-low.min(axis=1, keepdims=True) / top_scale)
    sc = to_code(over(step, d), 0, top_scale)
    m = to_code(over(-low, dmin), 0, top_scale)
    q = to_code(over(sub + (dmin * m)[:, :, None], (d * sc)[:, :, None]), 0, top_code)
    return d, dmin, sc, m, q.reshape(len(x), SUPER)


def unpack_scaled_min(d, dmin, sc, m, q):
    n, n_sub = sc.shape
    scale = d * sc.astype(np.float32)
    low = dmin * m.astype(np.float32)
    q = q.astype(np.float32).reshape(n, n_sub, -1)
    return (scale[:, :, None] * q - low[:, :, None]).reshape(n, SUPER)


def q2_k_pack(x):
    d, dmin, sc, m, q = pack_scaled_min(x, 16, 3, 15)
    return cat((sc | (m << 4)).astype(np.uint8), join_fields(q, 2, 32), f16_bytes(d), f16_bytes(dmin))


def q2_k_unpack(b):
    scales = b[:, :16]
    return unpack_scaled_min(f16_value(b[:, 80:82]), f16_value(b[:, 82:84]), scales & 15, scales >> 4,
                             split_fields(b[:, 16:80], 2, 32))


def q2_k_draw(rng, n, sigma):
    # Scale and minimum alike in 8..15, dmin = 1.5 d: each sub-block is centred on zero.
    sc = 8 + (random_bytes(rng, n, 16) & np.uint8(7))
    d = random_scale(rng, n, sigma / (11.7 * np.sqrt(15 / 12)), False)
    return cat(sc | (sc << np.uint8(4)), random_bytes(rng, n, 64), d,
               f16_bytes(f16_value(d) * np.float32(1.5)))


def q3_k_join_scales(sc):
    """Sixteen 6-bit scales [n, 16] -> uint8 [n, 12]: low nibbles in 8 bytes, top bits in 4."""
    sc = sc.astype(np.uint8)
    return cat(join_fields(sc & 15, 4, 8), join_fields(sc >> 4, 2, 4))


def q3_k_split_scales(b):
    return split_fields(b[:, :8], 4, 8) | (split_fields(b[:, 8:], 2, 4) << np.uint8(4))


def q3_k_pack(x):
    sub = x.reshape(len(x), 16, 16)
    step = (signed_peak(sub) / -4)[:, :, 0]
    d = round_f16(signed_peak(step) / -32)
    sc = to_code(over(step, d), -32, 31)
    q = to_code(over(sub, (d * sc)[:, :, None]) + 4, 0, 7).reshape(len(x), SUPER)
    return cat(join_fields(q >> 2, 1, 32), join_fields(q & 3, 2, 32), q3_k_join_scales(sc + 32),
               f16_bytes(d))


def q3_k_unpack(b):
    sc = q3_k_split_scales(b[:, 96:108]).astype(np.float32) - 32
    q = split_fields(b[:, 32:96], 2, 32) | (split_fields(b[:, :32], 1, 32) << np.uint8(2))
    q = q.astype(np.float32).reshape(len(b), 16, 16) - 4
    return ((f16_value(b[:, 108:110]) * sc)[:, :, None] * q).reshape(len(b), SUPER)


def q3_k_draw(rng, n, sigma):
    # Scales of magnitude 16..31 and either sign: root mean square 23.9; codes -4..3: 2.35.
    sc = 16 + (random_bytes(rng, n, 16) & np.uint8(15))
    sc = np.where(random_bytes(rng, n, 16) & np.uint8(1), 32 + sc, 32 - sc)
    return cat(random_bytes(rng, n, 96), q3_k_join_scales(sc),
               random_scale(rng, n, sigma / (23.9 * 2.35), True))


def q45_k(bits):
    """Q4_K and Q5_K: d, dmin, 6-bit scales and minima of eight sub-blocks, [fifth bits], nibbles."""
    top = (1 << bits) - 1
    q_at = 16 if bits == 4 else 48

    def pack(x):
        d, dmin, sc, m, q = pack_scaled_min(x, 8, top, 63)
        high = [] if bits == 4 else [join_fields(q >> 4, 1, 32)]
        return cat(f16_bytes(d), f16_bytes(dmin), join_scales6(sc, m), *high, join_fields(q & 15, 4, 32))

    def unpack(b):
        sc, m = split_scales6(b[:, 4:16])
        q = split_fields(b[:, q_at:], 4, 32)
        if bits == 5:
            q = q | (split_fields(b[:, 16:48], 1, 32) << np.uint8(4))
        return unpack_scaled_min(f16_value(b[:, :2]), f16_value(b[:, 2:4]), sc, m, q)

    def draw(rng, n, sigma):
        sc = 32 + (random_bytes(rng, n, 8) & np.uint8(31))  # root mean square 48.4
        deviation = np.sqrt(((top + 1) ** 2 - 1) / 12)
        d = random_scale(rng, n, sigma / (48.4 * deviation), False)
        dmin = f16_bytes(f16_value(d) * np.float32(top / 2))
        return cat(d, dmin, join_scales6(sc, sc), random_bytes(rng, n, 128 if bits == 4 else 160))

    return pack, unpack, draw


def q6_k_pack(x):
    sub = x.reshape(len(x), 16, 16)
    step = (signed_peak(sub) / -32)[:, :, 0]
    d = round_f16(signed_peak(step) / -127)
    sc = to_code(over(step, d), -127, 127)
    q = to_code(over(sub, (d * sc)[:, :, None]) + 32, 0, 63).reshape(len(x), SUPER)
    return cat(join_fields(q & 15, 4, 64), join_fields(q >> 4, 2, 32),
               sc.astype(np.int8).view(np.uint8), f16_bytes(d))


def q6_k_unpack(b):
    sc = b[:, 192:208].view(np.int8).astype(np.float32)
    q = split_fields(b[:, :128], 4, 64) | (split_fields(b[:, 128:192], 2, 32) << np.uint8(4))
    q = q.astype(np.float32).reshape(len(b), 16, 16) - 32
    return ((f16_value(b[:, 208:210]) * sc)[:, :, None] * q).reshape(len(b), SUPER)


def q6_k_draw(rng, n, sigma):
    # Scales of magnitude 64..127 and either sign: root mean square 97.2; codes -32..31: 18.5.
    sc = 64 + (random_bytes(rng, n, 16) & np.uint8(63)).astype(np.int8)
    sc = np.where(random_bytes(rng, n, 16) & np.uint8(1), sc, -sc).astype(np.int8)
    return cat(random_bytes(rng, n, 192), sc.view(np.uint8),
               random_scale(rng, n, sigma / (97.2 * 18.5), True))


def iq4_xs_join(d, sc, q):
    """d [n, 2] bytes, scales 0..63 [n, 8], codes as bytes [n, 128]."""
    sc = sc.astype(np.uint8)
    low = (sc[:, 0::2] & 15) | ((sc[:, 1::2] & 15) << 4)
    high = join_fields(sc >> 4, 2, 1)
    return cat(d, high, low, q)


def iq4_xs_pack(x):
    sub = x.reshape(len(x), 8, 32)
    step = (signed_peak(sub) / IQ4_VALUES[0])[:, :, 0]
    d = round_f16(signed_peak(step) / -32)
    sc = to_code(over(step, d), -32, 31)
    q = nearest_code(over(sub, (d * sc)[:, :, None]), IQ4_VALUES).reshape(len(x), SUPER)
    return iq4_xs_join(f16_bytes(d), sc + 32, join_fields(q, 4, 16))


def iq4_xs_unpack(b):
    low = split_fields(b[:, 4:8], 4, 1)
    sc = (low | (split_fields(b[:, 2:4], 2, 1) << np.uint8(4))).astype(np.float32) - 32
    q = IQ4_VALUES[split_fields(b[:, 8:], 4, 16)].reshape(len(b), 8, 32)
    return ((f16_value(b[:, :2]) * sc)[:, :, None] * q).reshape(len(b), SUPER)


def iq4_xs_draw(rng, n, sigma):
    sc = 16 + (random_bytes(rng, n, 8) & np.uint8(15))
    sc = np.where(random_bytes(rng, n, 8) & np.uint8(1), 32 + sc, 32 - sc)
    return iq4_xs_join(random_scale(rng, n, sigma / (23.9 * IQ4_VALUES.std()), True), sc,
                       random_bytes(rng, n, 128))


# ---- the table ----

TYPES = {t.name: t for t in (
    TensorType("F32", 0, 1, 4, f32_pack, f32_unpack, f32_draw),
    TensorType("F16", 1, 1, 2, f16_bytes, f16_unpack, half_draw(10, 15)),
    TensorType("Q4_0", 2, 32, 18, *legacy(4, True)),
    TensorType("Q4_1", 3, 32, 20, *legacy(4, False)),
    TensorType("Q5_0", 6, 32, 22, *legacy(5, True)),
    TensorType("Q5_1", 7, 32, 24, *legacy(5, False)),
    TensorType("Q8_0", 8, 32, 34, q8_0_pack, q8_0_unpack, q8_0_draw),
    TensorType("Q2_K", 10, SUPER, 84, q2_k_pack, q2_k_unpack, q2_k_draw),
    TensorType("Q3_K", 11, SUPER, 110, q3_k_pack, q3_k_unpack, q3_k_draw),
    TensorType("Q4_K", 12, SUPER, 144, *q45_k(4)),
    TensorType("Q5_K", 13, SUPER, 176, *q45_k(5)),
    TensorType("Q6_K", 14, SUPER, 210, q6_k_pack, q6_k_unpack, q6_k_draw),
    TensorType("IQ4_NL", 20, 32, 18, iq4_nl_pack, iq4_nl_unpack, iq4_nl_draw),
    TensorType("IQ4_XS", 23, SUPER, 136, iq4_xs_pack, iq4_xs_unpack, iq4_xs_draw),
    TensorType("BF16", 30, 1, 2, bf16_pack, bf16_unpack, half_draw(7, 127)),
    TensorType("MXFP4", 39, 32, 17, mxfp4_pack, mxfp4_unpack, mxfp4_draw),
)}
TYPES_BY_ID = {t.id: t for t in TYPES.values()}

PIECE_BLOCKS = 1 << 16  # how many blocks are worked on at once, to bound memory


def quantize(x, type_name):
    """float array [..., k] -> uint8 [..., row bytes]."""
    t = TYPES[type_name]
    x = np.asarray(x, dtype=np.float32)
    out_shape = x.shape[:-1] + (t.row_bytes(x.shape[-1]),)
    blocks = x.reshape(-1, t.elems)
    out = np.empty((len(blocks), t.size), np.uint8)
    for i in range(0, len(blocks), PIECE_BLOCKS):
        out[i:i + PIECE_BLOCKS] = t.pack(blocks[i:i + PIECE_BLOCKS])
    return out.reshape(out_shape)


def dequantize(b, type_name):
    """uint8 [..., row bytes] -> float32 [..., k]."""
    t = TYPES[type_name]
    b = np.asarray(b)
    if b.dtype != np.uint8 or b.shape[-1] % t.size:
        raise ValueError(f"{type_name} wants uint8 rows of whole {t.size}-byte blocks, "
                         f"not {b.dtype} rows of {b.shape[-1]}")
    blocks = b.reshape(-1, t.size)
    out = np.empty((len(blocks), t.elems), np.float32)
    for i in range(0, len(blocks), PIECE_BLOCKS):
        out[i:i + PIECE_BLOCKS] = t.unpack(blocks[i:i + PIECE_BLOCKS])
    return out.reshape(b.shape[:-1] + (b.shape[-1] // t.size * t.elems,))
