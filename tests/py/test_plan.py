#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`weir plan` against the tensor tables of GGUF files of real shapes: weights and keys and values within 1 %."""

import json
import os
import subprocess
import sys
import unittest

import numpy as np

sys.dont_write_bytecode = True
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "tools"))

import model_spec  # noqa: E402
from quants import TYPES  # noqa: E402

WEIR = os.environ.get("WEIR_BIN", os.path.join(ROOT, "weir"))

# preset of weir: preset of tools/make_model.py; dense, tied, mixtures of experts
SAME = {"llama-2-7b": "llama-7b", "llama-3.1-8b": "llama-8b", "llama-3.2-1b": "llama-1b", "llama-3.2-3b": "llama-3b",
        "mistral-7b": "mistral-7b", "mixtral-8x7b": "mixtral-8x7b", "qwen3-30b-a3b": "qwen3-30b-a3b"}
FORMATS = {"f16": ("F16", False), "q8_0": ("Q8_0", False), "q4_k_m": ("Q4_K", True), "q5_k_m": ("Q5_K", True)}


def plan(*args):
    out = subprocess.run([WEIR, "plan", *args, "--json"], capture_output=True, text=True, timeout=60)
    if out.returncode:
        raise AssertionError(out.stderr)
    return json.loads(out.stdout)


def file_bytes(shape, base, mixed):
    """What a file of these tensors holds."""
    total = 0
    for spec in model_spec.tensor_specs(shape):
        t = TYPES[model_spec.tensor_type(shape, spec, base, mixed)]
        total += int(np.prod(spec.shape[:-1], dtype=np.int64)) * t.row_bytes(spec.shape[-1])
    return total


@unittest.skipUnless(os.access(WEIR, os.X_OK), "weir is not built")
class PlanAgainstFiles(unittest.TestCase):
    def test_weights_and_kv(self):
        for preset, name in SAME.items():
            shape = model_spec.preset_shapes()[name]
            for fmt, (base, mixed) in FORMATS.items():
                model = plan(preset, "b200", "--weights", fmt)["model"]
                want = file_bytes(shape, base, mixed)
                self.assertLess(abs(model["weight_bytes"] / want - 1), 0.01, f"{preset} {fmt}")
                kv = 2 * shape.layers * shape.kv_heads * shape.head_dim * 2
                self.assertEqual(model["kv_token_bytes"], kv, preset)

    def test_wrong_input_explains_itself(self):
        for args, says in ((["lama-3.1-8b"], "did you mean llama-3.1-8b?"),
                           (["llama-3.1-8b", "h1000"], "did you mean h100"),
                           (["llama-3.1-8b", "--ctx", "-5"], "'-5' is not a whole number from 1"),
                           (["llama-3.1-8b", "--wieghts", "q8_0"], "did you mean --weights?"),
                           (["llama-2-7b", "--ctx", "8192"], "give --ctx 4096 or less"),
                           (["llama-2-7b", "--price", "cheap"], "neither a price an hour"),
                           ([], "no model")):
            out = subprocess.run([WEIR, "plan", *args], capture_output=True, text=True, timeout=60)
            self.assertEqual(out.returncode, 2, args)
            self.assertIn(says, out.stderr)
            self.assertEqual(out.stdout, "")


if __name__ == "__main__":
    unittest.main()
