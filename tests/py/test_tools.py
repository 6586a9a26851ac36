#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Self-test of tools/: tensor types, the GGUF writer and reader, the model generator."""

import contextlib
import hashlib
import io
import os
import struct
import sys
import tempfile
import unittest
import zlib
from dataclasses import replace

import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools"))

import gguf_writer  # noqa: E402
import make_model  # noqa: E402
import model_spec  # noqa: E402
import quants  # noqa: E402
from gguf_writer import GGUFError, GGUFReader, Typed, tensor_of, write_gguf  # noqa: E402

# CRC-32 of the float32 values of 64 blocks (16,384 values of a float type) whose bytes are SHAKE-256
# of the type's name, NaN as zero. Made with `gguf.quants.dequantize` of the PyPI package gguf 0.19.0.
DEQUANTIZED_CRC = {
    "F32": 0x8ecd2aee, "F16": 0xad2a6ded, "Q4_0": 0x1e429314, "Q4_1": 0xf8361e46,
    "Q5_0": 0xb3570d5f, "Q5_1": 0x0423aabe, "Q8_0": 0xba6a1d02, "Q2_K": 0xe7dce363,
    "Q3_K": 0x96d540fb, "Q4_K": 0xec60db4b, "Q5_K": 0xf5e40f77, "Q6_K": 0x5530a4ca,
    "IQ4_NL": 0xbc00c6ac, "IQ4_XS": 0xc2ba1111, "BF16": 0xe52fdded, "MXFP4": 0x5d66ea4d,
}

# Bound of the root mean square error of packing normal values, over their deviation.
PACK_ERROR = {
    "F32": 0.0, "F16": 0.0003, "BF16": 0.002, "Q8_0": 0.006, "Q4_0": 0.09, "Q4_1": 0.083,
    "Q5_0": 0.046, "Q5_1": 0.041, "Q2_K": 0.35, "Q3_K": 0.17, "Q4_K": 0.083, "Q5_K": 0.041,
    "Q6_K": 0.021, "IQ4_NL": 0.085, "IQ4_XS": 0.085, "MXFP4": 0.125,
}


def normal(*shape, seed=5):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Types(unittest.TestCase):
    def test_unpack_agrees_with_the_format(self):
        for name, t in quants.TYPES.items():
            with self.subTest(name):
                n = 64 if t.elems > 1 else 16384
                b = np.frombuffer(hashlib.shake_256(name.encode()).digest(n * t.size), np.uint8)
                with np.errstate(all="ignore"):
                    y = quants.dequantize(b.reshape(64, -1), name)
                y = np.where(np.isnan(y), np.float32(0), y).astype("<f4")
                self.assertEqual(zlib.crc32(y.tobytes()), DEQUANTIZED_CRC[name])

    def test_pack_error_is_bounded(self):
        x = normal(64, 1024) * np.float32(0.03)
        for name in quants.TYPES:
            with self.subTest(name):
                y = quants.dequantize(quants.quantize(x, name), name)
                self.assertEqual(y.shape, x.shape)
                error = np.sqrt(np.mean((x - y) ** 2)) / x.std()
                self.assertLessEqual(error, PACK_ERROR[name])

    def test_pack_of_zeros_and_of_one_sign(self):
        for name in quants.TYPES:
            with self.subTest(name):
                zeros = np.zeros((2, 512), np.float32)
                self.assertTrue((quants.dequantize(quants.quantize(zeros, name), name) == 0).all())
                for sign in (1, -1):
                    x = sign * (1 + np.abs(normal(8, 256)))
                    y = quants.dequantize(quants.quantize(x, name), name)
                    self.assertLess(np.sqrt(np.mean((x - y) ** 2)) / np.sqrt(np.mean(x ** 2)), 0.25)

    def test_draw_has_the_asked_deviation(self):
        for name, t in quants.TYPES.items():
            with self.subTest(name):
                b = t.draw(np.random.Generator(np.random.SFC64(2)), 1 << 17 if t.elems == 1 else 2048, 0.02)
                y = t.unpack(b)
                self.assertEqual(b.shape[1], t.size)
                self.assertTrue(np.isfinite(y).all())
                self.assertLess(abs(y.mean()), 0.002)
                self.assertTrue(0.6 < y.std() / 0.02 < 1.6, y.std())

    def test_row_that_is_not_whole_blocks_is_refused(self):
        for name in ("Q8_0", "Q4_K"):
            with self.assertRaisesRegex(ValueError, name):
                quants.quantize(np.zeros((2, 40), np.float32), name)


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name="m.gguf"):
        return os.path.join(self.folder.name, name)

    def test_metadata_round_trip(self):
        given = {"s": "h\u00e9llo", "empty": "", "u": 7, "big": 1 << 40, "neg": -3, "x": 0.5, "yes": True,
                 "u8": Typed("u8", 255), "i16": Typed("i16", -300), "f64": Typed("f64", 0.1),
                 "list": [1, 2, 3], "signed": [-1, 5], "floats": [0.25, -2.0], "flags": [True, False],
                 "words": ["a", "", "\u0120b"], "none": Typed("str", [])}
        kinds = {"s": "str", "u": "u32", "big": "u64", "neg": "i32", "x": "f32", "yes": "bool", "u8": "u8",
                 "i16": "i16", "f64": "f64", "list": "u32", "signed": "i32", "floats": "f32",
                 "flags": "bool", "words": "str", "none": "str"}
        for version in (2, 3):
            write_gguf(self.path(), given, [], version=version)
            r = GGUFReader(self.path())
            self.assertEqual(r.version, version)
            for key, value in given.items():
                self.assertEqual(r.metadata[key], value.value if isinstance(value, Typed) else value)
            for key, kind in kinds.items():
                self.assertEqual(r.kinds[key], kind, key)

    def test_tensor_round_trip_at_any_alignment(self):
        arrays = {"v": normal(7), "m": normal(3, 256), "e": normal(2, 3, 32), "f": normal(2, 2, 2, 64)}
        for alignment in (8, 32, 4096):
            write_gguf(self.path(), {}, [tensor_of(n, a, "F32") for n, a in arrays.items()],
                       alignment=alignment)
            r = GGUFReader(self.path())
            for name, a in arrays.items():
                self.assertEqual(r.tensors[name].shape, a.shape)
                self.assertTrue((r.array(name) == a).all())
            at = r.tensors["m"].data.__array_interface__["data"][0]
            self.assertEqual(at % min(alignment, 4096), 0)

    def test_split_files_join(self):
        arrays = {f"t{i}": normal(4, 256, seed=i) for i in range(7)}
        tensors = [tensor_of(n, a, "Q8_0") for n, a in arrays.items()]
        for count in (2, 3, 7):
            paths = write_gguf(self.path("s.gguf"), {"k": 1}, tensors, splits=count)
            self.assertEqual([os.path.basename(p) for p in paths],
                             [f"s-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)])
            r = GGUFReader(paths[0])
            self.assertEqual(sorted(r.tensors), sorted(arrays))
            self.assertEqual(r.metadata["k"], 1)
            with self.assertRaisesRegex(GGUFError, "give the first"):
                GGUFReader(paths[1])
        with self.assertRaisesRegex(ValueError, "split"):
            write_gguf(self.path("s.gguf"), {}, tensors, splits=8)

    def test_wrong_data_size_is_refused_and_leaves_no_file(self):
        bad = gguf_writer.Tensor("t", (4, 32), "Q8_0", lambda: [bytes(100)])
        with self.assertRaisesRegex(ValueError, "36 bytes are missing"):
            write_gguf(self.path(), {}, [bad])
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_cut_and_foreign_files_are_refused(self):
        write_gguf(self.path(), {"k": ["a", "b"]}, [tensor_of("t", normal(4, 32))])
        with open(self.path(), "rb") as f:
            whole = f.read()
        for size in range(0, len(whole), 5):
            with open(self.path("cut.gguf"), "wb") as f:
                f.write(whole[:size])
            with self.assertRaises(GGUFError):
                GGUFReader(self.path("cut.gguf"))
        for wrong in (b"GGML" + whole[4:], whole[:4] + struct.pack("<I", 9) + whole[8:]):
            with open(self.path("cut.gguf"), "wb") as f:
                f.write(wrong)
            with self.assertRaises(GGUFError):
                GGUFReader(self.path("cut.gguf"))


class Models(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def make(self, name, *args):
        path = os.path.join(self.folder.name, name)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(make_model.main([*args, "-o", path]), 0)
        return path

    def test_tensors_depend_on_the_seed_and_name_alone(self):
        a = self.make("a.gguf", "--preset", "tiny-llama", "--seed", "3")
        b = self.make("b.gguf", "--preset", "tiny-llama", "--seed", "3")
        c = self.make("c.gguf", "--preset", "tiny-llama", "--seed", "4")
        d = self.make("d.gguf", "--preset", "tiny-llama", "--seed", "3", "--layers", "3", "--split", "2")
        data = []
        for p in (a, b, c, d.replace(".gguf", "-00001-of-00002.gguf")):
            data.append({n: t.data for n, t in GGUFReader(p).tensors.items()})
        with open(a, "rb") as f, open(b, "rb") as g:
            self.assertEqual(f.read(), g.read())
        self.assertFalse((data[0]["blk.0.attn_q.weight"] == data[2]["blk.0.attn_q.weight"]).all())
        self.assertFalse((data[0]["blk.0.attn_q.weight"] == data[0]["blk.1.attn_q.weight"]).all())
        for name in data[0]:
            self.assertTrue((data[0][name] == data[3][name]).all(), name)

    def test_every_type_is_written(self):
        for name in quants.TYPES:
            with self.subTest(name):
                r = GGUFReader(self.make("m.gguf", "--type", name, "--layers", "1"))
                self.assertEqual(r.tensors["blk.0.ffn_down.weight"].type, name)
                self.assertEqual(r.tensors["blk.0.ffn_norm.weight"].type, "F32")
                w = r.array("blk.0.attn_q.weight")
                self.assertTrue(0.6 < w.std() * np.sqrt(256) < 1.6)

    def test_every_preset_has_its_tensors(self):
        for name, s in model_spec.preset_shapes().items():
            with self.subTest(name):
                s.check()
                specs = {t.name: t.shape for t in model_spec.tensor_specs(s)}
                self.assertEqual(specs["blk.0.attn_q.weight"], (s.heads * s.head_dim, s.embd))
                self.assertEqual("output.weight" in specs, not s.tied)
                self.assertEqual("blk.0.attn_q.bias" in specs, s.arch == "qwen2")
                self.assertEqual("blk.0.attn_k_norm.weight" in specs, s.arch.startswith("qwen3"))
                self.assertEqual("blk.0.ffn_gate_exps.weight" in specs, s.experts > 0)
                self.assertEqual("rope_freqs.weight" in specs, s.rope.kind == "llama3")
        b1 = model_spec.preset_shapes()["llama-1b"]
        n = sum(int(np.prod(t.shape)) for t in model_spec.tensor_specs(b1) if t.role != "rope_freqs")
        self.assertEqual(n, 1235814400)  # the published number of parameters

    def test_overrides_and_metadata(self):
        r = GGUFReader(self.make("m.gguf", "--preset", "tiny-mixtral", "--separate-experts", "--experts", "3",
                                 "--expert-ff", "64", "--rope-scaling", "yarn", "--rope-factor", "8",
                                 "--heads", "8", "--ctx", "4096", "--gguf-version", "2"))
        m = r.metadata
        self.assertEqual(r.version, 2)
        self.assertEqual((m["llama.expert_count"], m["llama.expert_used_count"]), (3, 2))
        self.assertEqual(r.tensors["blk.1.ffn_down.2.weight"].shape, (256, 64))
        self.assertEqual(m["llama.feed_forward_length"], 64)
        self.assertEqual(m["llama.rope.scaling.type"], "yarn")
        self.assertEqual(m["llama.rope.scaling.original_context_length"], 512)
        self.assertEqual(m["llama.attention.key_length"], 32)

    def test_mixed_types_follow_the_recipe(self):
        r = GGUFReader(self.make("m.gguf", "--type", "Q4_K_M", "--layers", "8", "--untied"))
        six = [i for i in range(8) if r.tensors[f"blk.{i}.attn_v.weight"].type == "Q6_K"]
        self.assertEqual(six, [0, 3, 6, 7])
        self.assertEqual(six, [i for i in range(8) if r.tensors[f"blk.{i}.ffn_down.weight"].type == "Q6_K"])
        self.assertEqual(r.tensors["output.weight"].type, "Q6_K")
        self.assertEqual(r.tensors["token_embd.weight"].type, "Q4_K")
        self.assertEqual(r.metadata["general.file_type"], 15)
        tied = GGUFReader(self.make("m.gguf", "--type", "Q4_K_M"))
        self.assertEqual(tied.tensors["token_embd.weight"].type, "Q6_K")

    def test_rows_that_do_not_fit_take_a_smaller_block(self):
        r = GGUFReader(self.make("m.gguf", "--embd", "96", "--ff", "100", "--heads", "2", "--type", "Q4_K"))
        self.assertEqual(r.tensors["blk.0.attn_q.weight"].type, "Q5_0")
        self.assertEqual(r.tensors["blk.0.ffn_down.weight"].type, "F16")

    def test_tokenizer(self):
        for vocab in (model_spec.MIN_VOCAB, 512, 40000):
            m = model_spec.tokenizer_metadata("llama", vocab)
            tokens = m["tokenizer.ggml.tokens"].value
            self.assertEqual((len(tokens), len(set(tokens))), (vocab, vocab))
            self.assertEqual(len(m["tokenizer.ggml.token_type"].value), vocab)
            known = set(tokens[:256])
            for merge in m["tokenizer.ggml.merges"].value:
                left, right = merge.split(" ")
                self.assertTrue(left in known and right in known, merge)
                known.add(left + right)
            self.assertEqual(tokens[m["tokenizer.ggml.eot_token_id"]], "<|im_end|>")

    def test_tokenizer_is_copied(self):
        a = self.make("a.gguf", "--vocab", "300")
        b = GGUFReader(self.make("b.gguf", "--preset", "tiny-qwen2", "--tokenizer-from", a))
        self.assertEqual(b.tensors["token_embd.weight"].shape, (300, 256))
        self.assertEqual(b.typed("tokenizer.ggml.tokens"), GGUFReader(a).typed("tokenizer.ggml.tokens"))
        self.assertEqual(b.metadata["tokenizer.ggml.pre"], "llama-bpe")

    def test_impossible_shapes_are_refused(self):
        base = model_spec.preset_shapes()["tiny-llama"]
        for change in ({"kv_heads": 3}, {"head_dim": 63}, {"vocab": 100}, {"arch": "gpt2"}, {"experts": 4},
                       {"arch": "qwen3", "experts": 4, "experts_used": 2}, {"layers": 0}):
            with self.assertRaises(ValueError, msg=str(change)):
                replace(base, **change).check()


if __name__ == "__main__":
    unittest.main(verbosity=2)
