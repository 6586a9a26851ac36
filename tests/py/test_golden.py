#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The committed golden models, run through the NumPy reference, still give the committed logits."""

import os
import sys
import unittest

sys.dont_write_bytecode = True
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")
sys.path.insert(0, GOLDEN)

import make_golden  # noqa: E402
from numpy_forward import Model  # noqa: E402


class Golden(unittest.TestCase):
    def test_every_model_agrees(self):
        for name in [*make_golden.HF_MODELS, *make_golden.NUMPY_MODELS]:
            with self.subTest(name):
                tokens, positions, logits, tolerances = make_golden.read_vec(os.path.join(GOLDEN, name + ".vec"))
                ours = Model(os.path.join(GOLDEN, name + ".gguf")).logits(tokens)[positions]
                self.assertLess(make_golden.difference(ours, logits), make_golden.AGREE)
                self.assertTrue(all(1e-4 < t < 0.2 for t in tolerances), tolerances)

    def test_no_file_is_left_over(self):
        names = {*make_golden.HF_MODELS, *make_golden.NUMPY_MODELS}
        for ending in (".gguf", ".vec"):
            found = {f[:-len(ending)] for f in os.listdir(GOLDEN) if f.endswith(ending)}
            self.assertEqual(found, names)


if __name__ == "__main__":
    unittest.main(verbosity=2)
