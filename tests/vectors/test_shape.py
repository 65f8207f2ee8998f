from __future__ import annotations

import base64
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from streambed.errors import Internal, InvalidRequest
from streambed.vectors.shape import EncodingFormat, check_dimensions, check_encoding, decode, encode, shorten

Vectors = NDArray[np.float32]
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def gaussian(*shape: int) -> Vectors:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dimensions", [None, 1, 32, 63, 64])
def test_cut_comes_before_unit_length(dimensions: int | None) -> None:
    hidden = gaussian(5, 64)
    vectors = shorten(hidden, dimensions)
    cut = hidden[:, :dimensions].astype(np.float64)
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, dimensions or 64)
    assert np.allclose(vectors, cut / np.linalg.norm(cut, axis=1, keepdims=True), rtol=1e-6, atol=0)
    assert np.allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-6)


def test_input_is_left_alone() -> None:
    hidden = gaussian(3, 64)
    kept = hidden.copy()
    vectors = shorten(hidden)
    vectors[:] = 0
    assert np.array_equal(hidden, kept)


def test_no_vectors_at_all() -> None:
    assert shorten(gaussian(0, 64), 32).shape == (0, 32)


@pytest.mark.parametrize("scale", [1e30, LARGEST, 1.0, 1e-30, SMALLEST])
def test_huge_and_tiny_values_keep_their_direction(scale: float) -> None:
    hidden = np.full((1, 64), scale, dtype=np.float32)
    hidden[0, ::2] *= -1
    vectors = shorten(hidden)
    assert np.allclose(np.abs(vectors), 0.125, rtol=1e-6)
    assert np.array_equal(np.sign(vectors), np.sign(hidden))


@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 64)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_unit_length_or_refused(hidden: Vectors) -> None:
    if hidden.any(-1).all():
        assert np.allclose(np.linalg.norm(shorten(hidden).astype(np.float64), axis=1), 1, atol=1e-5)
    else:
        with pytest.raises(Internal):
            shorten(hidden)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 2])
def test_not_finite_is_refused(bad: float, row: int) -> None:
    hidden = gaussian(3, 64)
    hidden[row, 5] = bad
    with pytest.raises(Internal, match="without a direction"):
        shorten(hidden)
    assert np.isfinite(shorten(hidden, 5)).all(), "what is cut away does not count"


def test_zero_is_refused() -> None:
    hidden = gaussian(3, 64)
    hidden[1, :32] = 0
    with pytest.raises(Internal, match="without a direction"):
        shorten(hidden, 32)
    assert shorten(hidden, 33).shape == (3, 33)
    with pytest.raises(Internal):
        shorten(np.zeros((1, 64), dtype=np.float32))


@pytest.mark.parametrize(
    ("dimensions", "hidden_size"), [(None, 1024), (32, 1024), (33, 1024), (1024, 1024), (32, 32), (16, 16), (None, 16)]
)
def test_dimensions_within_bounds(dimensions: int | None, hidden_size: int) -> None:
    check_dimensions(dimensions, hidden_size)


@pytest.mark.parametrize(
    ("dimensions", "hidden_size", "bounds"),
    [
        (31, 1024, "32 to 1024"),
        (1025, 1024, "32 to 1024"),
        (1, 1024, "32 to 1024"),
        (0, 1024, "32 to 1024"),
        (-1, 1024, "32 to 1024"),
        (10**30, 1024, "32 to 1024"),
        (31, 32, "32 to 32"),
        (15, 16, "16 to 16"),
        (32, 16, "16 to 16"),
    ],
)
def test_dimensions_out_of_bounds(dimensions: int, hidden_size: int, bounds: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_dimensions(dimensions, hidden_size)
    assert caught.value.message == f"dimensions is {dimensions}; this model gives {bounds}"
    assert caught.value.param == "dimensions"


@given(npst.arrays(np.uint32, st.integers(0, 40)))
def test_base64_is_little_endian_float32_bit_for_bit(bits: NDArray[np.uint32]) -> None:
    vector = bits.view(np.float32)
    encoded = encode(vector, "base64")["embedding"]
    assert isinstance(encoded, str)
    raw = base64.b64decode(encoded, validate=True)
    assert struct.unpack(f"<{len(bits)}I", raw) == tuple(bits.tolist())


def test_base64_of_known_values() -> None:
    assert encode(np.array([1.0, -2.0], dtype=np.float32), "base64")["embedding"] == "AACAPwAAAMA="


@pytest.mark.parametrize(
    "vector",
    [gaussian(64), gaussian(64).astype(">f4"), gaussian(2, 64)[1, :32], gaussian(128)[::2], gaussian(64)[::-1]],
    ids=["plain", "big-endian", "cut", "strided", "reversed"],
)
def test_memory_layout_does_not_matter(vector: Vectors) -> None:
    encoded = encode(vector, "base64")["embedding"]
    assert isinstance(encoded, str)
    assert np.array_equal(np.frombuffer(base64.b64decode(encoded), "<f4"), vector)
    plain = encode(vector, "float")["embedding"]
    assert isinstance(plain, np.ndarray)
    assert plain.flags.c_contiguous
    assert np.array_equal(plain, vector)


@given(
    npst.arrays(
        np.float32, st.integers(1, 64), elements=st.floats(-1, 1, width=32).map(lambda x: 0.0 if abs(x) < 1e-30 else x)
    )
)
def test_int8_is_within_half_a_step(vector: Vectors) -> None:
    fields = encode(vector, "int8")
    numbers, scale = fields["embedding"], fields["scale"]
    assert numbers.dtype == np.int8
    assert scale > 0
    assert np.abs(numbers).max() == (127 if vector.any() else 0)
    assert np.abs(numbers.astype(np.float64) * scale - vector).max() <= 0.5001 * scale


def test_ubinary_packs_signs_highest_bit_first() -> None:
    vector = np.array([1, -1, 1, 1, -1, -1, -1, 1, -1, -1, -1, -1, -1, -1, -1, 3], dtype=np.float32)
    fields = encode(vector, "ubinary")
    assert fields["embedding"].tolist() == [0b10110001, 0b00000001]
    assert fields["scale"] == pytest.approx(18 / 16)


def test_ubinary_keeps_who_is_near() -> None:
    base, noise = shorten(gaussian(1, 512))[0], gaussian(2, 512)[1] / 60
    near, far = encode(base + noise, "ubinary"), encode(noise, "ubinary")
    bits = np.unpackbits(encode(base, "ubinary")["embedding"])
    distances = [int((bits != np.unpackbits(each["embedding"])).sum()) for each in (near, far)]
    assert distances[0] < 150 < 220 < distances[1]


@pytest.mark.parametrize("encoding_format", ["float", "base64", "int8", "ubinary"])
def test_encodings_of_odd_sizes(encoding_format: EncodingFormat) -> None:
    check_encoding(encoding_format, 64)
    if encoding_format != "ubinary":
        return check_encoding(encoding_format, 63)
    with pytest.raises(InvalidRequest, match="63 is not a multiple of 8") as caught:
        check_encoding(encoding_format, 63)
    assert caught.value.param == "encoding_format"


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=8))
def test_vectors_travel_as_numbers_or_base64(numbers: list[float]) -> None:
    vector = np.asarray(numbers, dtype=np.float32)
    for travelling in (numbers, base64.b64encode(vector.astype("<f4").tobytes()).decode()):
        back = decode(travelling)
        assert back.dtype == np.float32
        assert back.tolist() == vector.tolist()
        assert back.flags.writeable
