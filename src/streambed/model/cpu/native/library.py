"""The C library, as Python sees it: structures and functions of `layer.h`."""

import ctypes
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

FORMATS = {"float32": 0, "bfloat16": 1, "int8": 2}


class Matrix(ctypes.Structure):
    """`sb_matrix`."""

    _fields_ = (
        ("weight", c_void_p), ("bias", c_void_p), ("scales", c_void_p), ("offsets", c_void_p), ("format", c_int32),
        ("outputs", c_int32), ("inputs", c_int32), ("block", c_int32), ("padded", c_int32),
    )  # fmt: skip


class Layer(ctypes.Structure):
    """`sb_layer`."""

    _fields_ = (
        ("attention_norm", c_void_p), ("qk_norm", c_void_p), ("mlp_norm", c_void_p),
        ("qkv", Matrix), ("output", Matrix), ("gate", Matrix), ("up", Matrix), ("down", Matrix),
    )  # fmt: skip


class Span(ctypes.Structure):
    """`sb_span`."""

    _fields_ = (
        ("first", c_int32), ("rows", c_int32), ("past", c_int32), ("limits_at", c_int32), ("borrows", c_int32),
        ("keys", c_void_p), ("values", c_void_p),
        ("head_stride", c_int64), ("slot_stride", c_int64), ("layer_stride", c_int64),
    )  # fmt: skip


class Step(ctypes.Structure):
    """`sb_step`."""

    _fields_ = (
        ("format", c_int32), ("kv_format", c_int32), ("rows", c_int32), ("hidden", c_int32), ("heads", c_int32),
        ("kv_heads", c_int32), ("dim", c_int32), ("mlp", c_int32), ("spans", c_int32), ("wanted", c_int32),
        ("eps", c_float), ("x", c_void_p), ("turns", c_void_p), ("limits", c_void_p), ("want", c_void_p),
        ("span", c_void_p), ("scratch", c_void_p),
    )  # fmt: skip


class Library:
    """The functions of a library that was built."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be loaded."""
        library = ctypes.CDLL(str(path))
        self.open_pool = library.sb_pool_open
        self.open_pool.restype, self.open_pool.argtypes = c_void_p, [c_int]
        self.close_pool = library.sb_pool_close
        self.close_pool.restype, self.close_pool.argtypes = None, [c_void_p]
        self.scratch_bytes = library.sb_scratch_bytes
        self.scratch_bytes.restype, self.scratch_bytes.argtypes = c_int64, [POINTER(Step)]
        self.run_layer = library.sb_run_layer
        self.run_layer.restype = None
        self.run_layer.argtypes = [c_void_p, POINTER(Layer), POINTER(Step), c_int, c_int]
        self.rms_norm = library.sb_rms_norm
        self.rms_norm.restype = None
        self.rms_norm.argtypes = [c_void_p, c_void_p, c_void_p, c_int, c_int, c_float]
        self.product = library.sb_product
        self.product.restype = None
        self.product.argtypes = [c_void_p, POINTER(Matrix), c_void_p, c_void_p, c_int, c_void_p]
        self.operand_bytes = library.sb_operand_bytes
        self.operand_bytes.restype, self.operand_bytes.argtypes = c_int64, [c_int, c_int, c_int]
