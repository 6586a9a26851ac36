#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a copy of a GGUF model with its matrices in another tensor type (round to nearest, no search for better scales)."""

import argparse
import sys

import numpy as np

import gguf_writer
from quants import TYPES


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, epilog="example: retype.py models/demo/weir-demo.gguf Q4_K out.gguf")
    p.add_argument("model")
    p.add_argument("type", choices=sorted(TYPES))
    p.add_argument("output")
    a = p.parse_args(argv)
    reader = gguf_writer.GGUFReader(a.model)
    meta = {k: reader.typed(k) for k in reader.metadata}
    t = TYPES[a.type]
    tensors = []
    for name in reader.tensors:
        x = reader.array(name).astype(np.float32)
        if x.ndim < 2:
            tensors.append(gguf_writer.Tensor(name, x.shape, "F32", lambda x=x: iter([x.astype("<f4")])))
            continue
        t.row_bytes(x.shape[-1])  # raises if a row is not whole blocks
        tensors.append(gguf_writer.Tensor(name, x.shape, a.type, lambda x=x: iter([t.pack(x.reshape(-1, t.elems))])))
    gguf_writer.write_gguf(a.output, meta, tensors)


if __name__ == "__main__":
    sys.exit(main())
