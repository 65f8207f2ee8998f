"""From hidden states to what a client gets: shortened, of unit length, encoded."""

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streambed.arguments import as_integer
from streambed.errors import Internal, InvalidRequest

MIN_DIMENSIONS = 32
EncodingFormat = Literal["float", "base64", "int8", "ubinary"]
"""How the numbers of a vector travel: see `encode`."""


def check_dimensions(dimensions: int | None, hidden_size: int) -> None:
    """Raises InvalidRequest unless `dimensions` is None or within 32..hidden_size."""
    if dimensions is None:
        return
    least = min(MIN_DIMENSIONS, hidden_size)
    if not least <= as_integer("dimensions", dimensions, None) <= hidden_size:
        raise InvalidRequest(f"dimensions is {dimensions}; this model gives {least} to {hidden_size}", "dimensions")


def shorten(hidden: NDArray[np.float32], dimensions: int | None = None) -> NDArray[np.float32]:
    """Cuts to the leading `dimensions` (Matryoshka, arXiv 2205.13147), *then* scales to unit length.

    hidden: float32 [n, hidden]. Returns float32 [n, dimensions].

    Raises:
        Internal: a vector has no direction; nothing that is not finite or not of unit length is ever handed out.
    """
    cut = hidden[:, :dimensions]
    # float64 for the sum of squares: large hidden states must not overflow it.
    lengths = np.sqrt(np.square(cut, dtype=np.float64).sum(-1, keepdims=True))
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise Internal("the model gave a vector without a direction for this text")
    unit: NDArray[np.float32] = (cut / lengths).astype(np.float32)
    return unit


def spread(vectors: NDArray[np.float32], places: Sequence[int], count: int) -> NDArray[np.float32]:
    """float32 [len(places), dimensions] as the rows `places` of [count, dimensions]; the others are NaN."""
    rows = np.full((count, vectors.shape[1]), np.nan, dtype=np.float32)
    rows[list(places)] = vectors
    return rows


def merge(hidden: NDArray[np.float32], weights: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """One vector for each document: the mean of its segments' unit vectors, weighted; not yet of unit length.

    hidden: float32 [segments of all documents, hidden]; weights: of each document's segments. A document of one segment
    keeps its row. Returns float32 [documents, hidden].
    """
    rows, at = [], 0
    for document in weights:
        part = hidden[at : at + len(document)]
        at += len(document)
        rows.append(part[0] if len(document) == 1 else np.average(shorten(part), axis=0, weights=document))
    return np.stack(rows).astype(np.float32, copy=False)


def check_encoding(encoding_format: EncodingFormat, dimensions: int) -> None:
    """Raises InvalidRequest where vectors of so many dimensions have no such encoding."""
    if encoding_format == "ubinary" and dimensions % 8:
        raise InvalidRequest(
            f"ubinary packs 8 dimensions in a byte, and {dimensions} is not a multiple of 8", "encoding_format"
        )


def encode(vector: NDArray[np.float32], encoding_format: EncodingFormat) -> dict[str, Any]:
    """Fields of a reply: `embedding`, and `scale` where the numbers stand for others.

    `float` leaves them to the JSON writer. `base64` is little-endian float32, as OpenAI's clients expect. `int8`: numbers
    from -127 to 127, which times `scale` are the vector to within half of `scale`. `ubinary`: bytes of 8 signs each, the
    first dimension in the highest bit; a 1 stands for `scale` and a 0 for minus `scale`, the mean magnitude.
    """
    match encoding_format:
        case "base64":
            return {"embedding": base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")}
        case "int8":
            scale = float(np.abs(vector).max()) / 127 or 1.0
            return {"embedding": np.rint(vector / np.float32(scale)).astype(np.int8), "scale": scale}
        case "ubinary":
            return {"embedding": np.packbits(vector > 0), "scale": float(np.abs(vector).mean())}
    return {"embedding": np.ascontiguousarray(vector)}


def decode(embedding: Any) -> NDArray[np.float32]:
    """A vector as it travels in `base64` or `float`: float32 [dimensions]."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4").astype(np.float32)
    return np.asarray(embedding, dtype=np.float32)
