"""How many of the nearest neighbours smaller vectors keep."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from streambed.vectors.reducers import Metric, Vectors
from streambed.vectors.shape import encode

Scores = NDArray[np.float32]
_ROWS = 256


def neighbours(vectors: Vectors, count: int, score: Callable[[Vectors, Vectors], Scores]) -> NDArray[np.int64]:
    """The `count` others that each vector scores highest with, nearest first: int64 [n, count]. Ties go to the lower row."""
    found = []
    for start in range(0, len(vectors), _ROWS):
        scores = score(vectors[start : start + _ROWS], vectors)
        rows = np.arange(len(scores))
        scores[rows, start + rows] = -np.inf
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :count])
    return np.concatenate(found)


def similarity(metric: Metric) -> Callable[[Vectors, Vectors], Scores]:
    """What `neighbours` ranks by: cosine of unit vectors, or distance, nearest first."""
    if metric == "cosine":
        return lambda a, b: a @ b.T

    def closeness(a: Vectors, b: Vectors) -> Scores:
        scores: Scores = 2 * a @ b.T - np.square(b).sum(1)  # without the square of a, which is the same along a row
        return scores

    return closeness


def kept(nearest: NDArray[np.int64], found: NDArray[np.int64], counts: Sequence[int]) -> list[float]:
    """Of the first k of `nearest`, the mean share that is among the first k of `found`, for each k of `counts`."""
    shares = []
    for count in counts:
        both = [len(np.intersect1d(a[:count], b[:count])) for a, b in zip(nearest, found, strict=True)]
        shares.append(float(np.mean(both)) / count)
    return shares


def as_int8(vectors: Vectors) -> Vectors:
    """The vectors that a client decodes from `int8`."""
    numbers = (encode(vector, "int8") for vector in vectors)
    return np.stack([each["embedding"].astype(np.float32) * np.float32(each["scale"]) for each in numbers])


def as_ubinary(vectors: Vectors) -> Vectors:
    """The same for `ubinary`, but for the scale: 1 and -1, so that products rank as Hamming distance does."""
    return np.where(vectors > 0, np.float32(1), np.float32(-1))
