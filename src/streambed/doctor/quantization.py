"""What integers cost in meaning: vectors of quantised matrices, or KV, beside those of the checkpoint's own numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streambed.doctor.canonical import LEAST_COSINE
from streambed.doctor.report import Answer, Finding
from streambed.doctor.texts import cosine
from streambed.engine.engine import Engine
from streambed.vectors.recall import kept, neighbours, similarity
from streambed.vectors.reducers import Vectors

_NEAREST = (1, 10)


def embed(engine: Engine, texts: Sequence[str]) -> Vectors:
    """The model's own vectors: float32 [texts, dimensions]. What is longer than the window is cut."""
    return engine.embed(texts, dimensions=engine.info.dimensions, long_input="truncate")


def compare(vectors: Vectors, full: Engine, texts: Sequence[str], kept_matrices: int) -> list[Finding]:
    """vectors: of the texts, by the quantised model. full: the same model without. kept_matrices: see `ComputeInfo`."""
    expected = embed(full, texts)
    cosines = [cosine(one, other) for one, other in zip(vectors, expected, strict=True)]
    worst = float(np.min(cosines))
    likeness = f"worst cosine {worst:.5f}, median {np.median(cosines):.5f}, of {len(texts):,} texts"
    rows: list[tuple[str, Answer]] = [("likeness", ("ok" if worst >= LEAST_COSINE["int8"] else "warn", likeness))]
    if kept_matrices:
        said = f"{kept_matrices} that integers would distort stay {full.info.dtype}"
        rows.insert(0, ("full matrices", ("ok", said)))
    if len(texts) > _NEAREST[-1] + 1:
        cosine_of = similarity("cosine")
        nearest, found = (neighbours(each, _NEAREST[-1], cosine_of) for each in (expected, vectors))
        shares = zip(_NEAREST, kept(nearest, found, _NEAREST), strict=True)
        again = ", ".join(f"{share:.1%} of the nearest {count}" for count, share in shares)
        rows.append(("neighbours kept", ("ok", again)))
        rows.append(
            ("rank correlation", ("ok", f"{_rank_correlation(expected, vectors):.5f}, of the cosines of all pairs"))
        )
    return [Finding("quantisation", name, *answer) for name, answer in rows]


def _rank_correlation(one: Vectors, other: Vectors) -> float:
    """Spearman's, of the cosines of all pairs of texts."""
    pairs = np.triu_indices(len(one), 1)
    a, b = (_ranks((each @ each.T)[pairs]) for each in (one, other))
    return float(np.atleast_2d(np.corrcoef(a, b))[0, 1])


def _ranks(values: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")
