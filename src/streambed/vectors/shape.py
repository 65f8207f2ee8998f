"""From hidden states to what a client gets: shortened, of unit length, encoded."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streambed.errors import Internal, InvalidRequest

MIN_DIMENSIONS = 32
EncodingFormat = Literal["float", "base64"]


def check_dimensions(dimensions: int | None, hidden_size: int) -> None:
    """Raises InvalidRequest unless `dimensions` is None or within 32..hidden_size."""
    if dimensions is not None and not min(MIN_DIMENSIONS, hidden_size) <= dimensions <= hidden_size:
        raise InvalidRequest(
            f"dimensions is {dimensions}; this model gives {min(MIN_DIMENSIONS, hidden_size)} to {hidden_size}",
            "dimensions",
        )


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


def encode(vector: NDArray[np.float32], encoding_format: EncodingFormat) -> str | NDArray[np.float32]:
    """`float` leaves the numbers to the JSON writer; `base64` is little-endian float32, as OpenAI's clients expect."""
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
    return np.ascontiguousarray(vector)
