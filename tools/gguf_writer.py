# SPDX-License-Identifier: Apache-2.0
"""Write and read GGUF files, version 2 and 3, little-endian, one file or split, with NumPy alone.

A file is: magic, version, counts, metadata (typed key-value pairs), tensor infos, padding to
`general.alignment`, tensor data. Shapes here are in NumPy order (rows first, the row's length
last); the file stores them reversed. Split files are named NAME-00001-of-00003.gguf; the first
holds all metadata, each holds its tensors and the three `split.*` keys.
"""

import os
import re
import struct
from typing import Callable, Iterable, NamedTuple

import numpy as np

import quants

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
SPLIT_NAME = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.gguf$")

# Kinds of metadata values: number in the file and struct format.
SCALARS = {"u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"),
           "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q"),
           "i64": (11, "<q"), "f64": (12, "<d")}
STRING, ARRAY = 8, 9
KIND_OF = {number: kind for kind, (number, _) in SCALARS.items()}
KIND_OF[STRING] = "str"


class GGUFError(ValueError):
    """The file is not a GGUF file that this module can read."""


class Typed(NamedTuple):
    """A metadata value with its kind: "u32", "str", ...; a list value is an array of that kind."""
    kind: str
    value: object


class Tensor(NamedTuple):
    """A tensor to write. `chunks()` yields its bytes in order, in pieces of any size."""
    name: str
    shape: tuple
    type: str
    chunks: Callable[[], Iterable]

    def n_bytes(self) -> int:
        rows = int(np.prod(self.shape[:-1], dtype=np.int64))
        return rows * quants.TYPES[self.type].row_bytes(self.shape[-1])


def tensor_of(name, array, type_name="F32"):
    """A Tensor that holds `array` (floats), quantised to a type when it is written."""
    return Tensor(name, tuple(array.shape), type_name, lambda: [quants.quantize(array, type_name)])


# ---- writing ----

def typed(value):
    """The kind that a plain Python value gets: int u32 where it fits (else i32, u64, i64), float
    f32, str, bool, and non-empty lists of one of these."""
    if isinstance(value, Typed):
        return value
    first = value
    if isinstance(value, (list, tuple, np.ndarray)):
        if len(value) == 0:
            raise ValueError("an empty array needs Typed(kind, [])")
        first = value[0]
    if isinstance(first, (bool, np.bool_)):
        kind = "bool"
    elif isinstance(first, str):
        kind = "str"
    elif isinstance(first, (float, np.floating)):
        kind = "f32"
    elif isinstance(first, (int, np.integer)):
        low, high = (value, value) if first is value else (min(value), max(value))
        if low >= 0:
            kind = "u32" if high < 1 << 32 else "u64"
        else:
            kind = "i32" if -(1 << 31) <= low and high < 1 << 31 else "i64"
    else:
        raise TypeError(f"no metadata kind for {type(first).__name__}")
    return Typed(kind, value)


def string_bytes(s):
    b = s.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(b)) + b


def value_bytes(value):
    kind, v = typed(value)
    number = STRING if kind == "str" else SCALARS[kind][0]
    if isinstance(v, (list, tuple, np.ndarray)):
        head = struct.pack("<IIQ", ARRAY, number, len(v))
        if kind == "str":
            return head + b"".join(map(string_bytes, v))
        return head + np.asarray(v, dtype=numpy_kind(kind)).tobytes()
    if kind == "str":
        return struct.pack("<I", STRING) + string_bytes(v)
    return struct.pack("<I", number) + struct.pack(SCALARS[kind][1], v)


def numpy_kind(kind):
    return "?" if kind == "bool" else "<" + kind[0] + str(int(kind[1:]) // 8)


def align_up(n, alignment):
    return -(-n // alignment) * alignment


def split_paths(path, count):
    stem = path[:-5] if path.endswith(".gguf") else path
    return [f"{stem}-{i + 1:05d}-of-{count:05d}.gguf" for i in range(count)]


def share_out(tensors, count):
    """`count` runs of tensors of about equal bytes, none empty."""
    if not 1 <= count <= len(tensors):
        raise ValueError(f"{len(tensors)} tensors cannot be split over {count} files")
    total = sum(t.n_bytes() for t in tensors)
    runs, done = [[]], 0
    for i, t in enumerate(tensors):
        must = len(tensors) - i == count - len(runs)
        full = runs[-1] and done >= total * len(runs) / count and len(runs) < count
        if runs[-1] and (must or full):
            runs.append([])
        runs[-1].append(t)
        done += t.n_bytes()
    return runs


def write_gguf(path, metadata, tensors, version=3, alignment=DEFAULT_ALIGNMENT, splits=1, progress=None):
    """Write a model; returns the paths of its files. Each file appears under its name only when it
    is whole. `progress(n_bytes)` is called as tensor bytes are written."""
    tensors = list(tensors)
    if version not in (2, 3):
        raise ValueError(f"version {version}: 2 and 3 can be written")
    if alignment < 8 or alignment & (alignment - 1):
        raise ValueError(f"alignment {alignment}: want a power of two of at least 8")
    if len({t.name for t in tensors}) != len(tensors):
        raise ValueError("two tensors have the same name")
    metadata = dict(metadata)
    if alignment != DEFAULT_ALIGNMENT:
        metadata["general.alignment"] = Typed("u32", alignment)
    if splits == 1:
        write_file(path, metadata, tensors, version, alignment, progress)
        return [path]
    paths = split_paths(path, splits)
    for i, (name, run) in enumerate(zip(paths, share_out(tensors, splits))):
        keys = metadata if i == 0 else {k: v for k, v in metadata.items() if k == "general.alignment"}
        keys = {**keys, "split.no": Typed("u16", i), "split.count": Typed("u16", splits),
                "split.tensors.count": Typed("i32", len(tensors))}
        write_file(name, keys, run, version, alignment, progress)
    return paths


def write_file(path, metadata, tensors, version, alignment, progress):
    head = [MAGIC, struct.pack("<IQQ", version, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [string_bytes(key), value_bytes(value)]
    offset = 0
    for t in tensors:
        if not 1 <= len(t.shape) <= MAX_DIMS:
            raise ValueError(f"tensor {t.name}: {len(t.shape)} dimensions")
        head += [string_bytes(t.name), struct.pack("<I", len(t.shape)),
                 struct.pack(f"<{len(t.shape)}Q", *reversed(t.shape)),
                 struct.pack("<IQ", quants.TYPES[t.type].id, offset)]
        offset = align_up(offset + t.n_bytes(), alignment)
    part = path + ".part"
    try:
        with open(part, "wb", buffering=0) as f:
            write_all(f, b"".join(head))
            pad(f, alignment)
            for t in tensors:
                write_tensor(f, t, progress)
                pad(f, alignment)
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.unlink(part)


def write_tensor(f, t, progress):
    left = t.n_bytes()
    for chunk in t.chunks():
        view = memoryview(np.ascontiguousarray(chunk)).cast("B") if isinstance(chunk, np.ndarray) else chunk
        write_all(f, view)
        left -= len(view)
        if progress:
            progress(len(view))
    if left:
        raise ValueError(f"tensor {t.name}: its data are {-left} bytes more than its shape says"
                         if left < 0 else f"tensor {t.name}: {left} bytes are missing")


def write_all(f, data):
    view = memoryview(data)
    while len(view):
        view = view[f.write(view):]


def pad(f, alignment):
    write_all(f, bytes(-f.tell() % alignment))


# ---- reading ----

class Stored(NamedTuple):
    """A tensor of a file: `data` is uint8 [..., row bytes], mapped, not read."""
    name: str
    shape: tuple
    type: str
    data: np.ndarray


class GGUFReader:
    """A model file, mapped; the other files of a split model are found beside it.

    .version, .metadata (key -> plain value), .kinds (key -> kind), .tensors (name -> Stored).
    """

    def __init__(self, path):
        self.metadata, self.kinds, self.tensors = {}, {}, {}
        self._read_file(path)
        count = self.metadata.get("split.count", 1)
        if count > 1:
            m = SPLIT_NAME.match(path)
            if not m or int(m[3]) != count or int(m[2]) != 1:
                raise GGUFError(f"{path}: give the first of {count} files, NAME-00001-of-{count:05d}.gguf")
            for other in split_paths(m[1] + ".gguf", count)[1:]:
                self._read_file(other)
            if len(self.tensors) != self.metadata["split.tensors.count"]:
                raise GGUFError(f"{path}: the files hold {len(self.tensors)} tensors, "
                                f"not {self.metadata['split.tensors.count']}")

    def typed(self, key):
        return Typed(self.kinds[key], self.metadata[key])

    def array(self, name):
        """A tensor's values, float32, in its shape."""
        t = self.tensors[name]
        return quants.dequantize(t.data, t.type).reshape(t.shape)

    def _read_file(self, path):
        self._path, self._at = path, 0
        if os.path.getsize(path) < 24:
            raise GGUFError(f"{path}: too short for a GGUF file")
        self._map = np.memmap(path, dtype=np.uint8, mode="r")
        if self._take(4).tobytes() != MAGIC:
            raise GGUFError(f"{path}: not a GGUF file")
        self.version = self._number("u32")
        if self.version not in (2, 3):
            raise GGUFError(f"{path}: version {self.version}, not 2 or 3")
        n_tensors, n_keys = self._number("u64"), self._number("u64")
        for _ in range(n_keys):
            key = self._string()
            kind, value = self._value()
            if key not in self.metadata:
                self.metadata[key], self.kinds[key] = value, kind
        infos = [self._info() for _ in range(n_tensors)]
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        base = align_up(self._at, alignment)
        for name, shape, t, offset in infos:
            if name in self.tensors:
                raise GGUFError(f"{path}: tensor {name} twice")
            row_bytes = t.row_bytes(shape[-1])
            n_bytes = int(np.prod(shape[:-1], dtype=object)) * row_bytes
            self._at = base + offset
            data = self._take(n_bytes).reshape(shape[:-1] + (row_bytes,))
            self.tensors[name] = Stored(name, shape, t.name, data)

    def _take(self, n):
        if n > len(self._map) - self._at:
            raise GGUFError(f"{self._path}: ends too early, at byte {self._at} {n} more are wanted")
        self._at += n
        return self._map[self._at - n:self._at]

    def _number(self, kind):
        return struct.unpack(SCALARS[kind][1], self._take(struct.calcsize(SCALARS[kind][1])))[0]

    def _string(self):
        # Vocabularies may hold bytes that are not UTF-8; keep them as they are.
        return self._take(self._number("u64")).tobytes().decode("utf-8", "surrogateescape")

    def _value(self):
        number = self._number("u32")
        if number != ARRAY:
            kind = self._kind(number)
            return kind, self._string() if kind == "str" else self._number(kind)
        kind = self._kind(self._number("u32"))
        n = self._number("u64")
        if kind == "str":
            return kind, [self._string() for _ in range(n)]
        item = np.dtype(numpy_kind(kind))
        return kind, self._take(n * item.itemsize).view(item).tolist()

    def _kind(self, number):
        if number not in KIND_OF:
            raise GGUFError(f"{self._path}: unknown kind of metadata value {number}")
        return KIND_OF[number]

    def _info(self):
        name = self._string()
        n_dims = self._number("u32")
        if not 1 <= n_dims <= MAX_DIMS:
            raise GGUFError(f"{self._path}: tensor {name} has {n_dims} dimensions")
        shape = tuple(self._number("u64") for _ in range(n_dims))[::-1]
        number = self._number("u32")
        if number not in quants.TYPES_BY_ID:
            raise GGUFError(f"{self._path}: tensor {name} has the unknown type {number}")
        return name, shape, quants.TYPES_BY_ID[number], self._number("u64")
