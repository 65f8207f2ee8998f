"""The texts that a model is tried with, and how like two vectors of one text are."""

import numpy as np

from streambed.vectors.reducers import Vectors

TEXTS = (
    "A brook runs to the sea.",
    "Der Fluß fließt ins Meer – 1.234,5 km², und nichts bleibt zurück!",
    "小川は海へ流れる。雨が降れば、また山から始まる。",
    "नदी समुद्र की ओर बहती है।",
    "النهر يجري إلى البحر، ولا يعود.",
    "Река течёт к морю; ветер — обратно.",
    "🌊👩‍👩‍👧‍👦 waves 🇳🇿, e\u0301 and \u1100\u1161\u11a8",
    "def flow(x: int) -> list[int]:\n    return [y ** 2 for y in range(x)]  # wells\n\n",
)


def cosine(one: Vectors, other: Vectors) -> float:
    """Of two vectors of any length, computed in float64."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
