"""What no answer can go below, against a count of every product."""

from __future__ import annotations

import pytest

from streambed.bench.floor import Floor, Part, Rates, multiply_adds, tokens
from streambed.model.checkpoint import find_checkpoint

MODEL = find_checkpoint("builtin").config
RATES = Rates(2, 10e9, {"bfloat16": {8: 1e9, 512: 4e9, 2048: 3e9}, "int8": {8: 2e9, 512: 8e9, 2048: 8e9}})


def counted(rows: int, before: int) -> int:
    """Row by row and layer by layer."""
    c, total = MODEL, 0
    for layer in range(c.num_layers):
        for row in range(rows):
            total += 2 * c.hidden_size * c.num_kv_heads * c.head_dim
            if layer == c.num_layers - 1 and row < rows - 1:
                continue  # nobody reads what it gives
            total += 2 * c.hidden_size * c.num_heads * c.head_dim + 3 * c.hidden_size * c.intermediate_size
            total += 2 * c.num_heads * c.head_dim * (before + row + 1)
    return total


@pytest.mark.parametrize(("rows", "before"), [(1, 0), (2, 0), (2, 100), (9, 31)])
def test_multiply_adds(rows: int, before: int) -> None:
    assert multiply_adds(MODEL, [Part(rows, before)]) == counted(rows, before)
    assert multiply_adds(MODEL, [Part(rows, before)] * 3) == 3 * counted(rows, before)


def test_a_keystroke_reads_and_a_long_text_computes() -> None:
    floor = Floor(MODEL, "bfloat16", RATES)
    keystroke, long = [Part(2, 1000)], [Part(2000)]
    kept = 1000 * MODEL.kv_values_per_token * 2
    assert floor.bytes_read(keystroke) == MODEL.num_weights * 2 + kept
    assert floor.seconds([Part(1)]) == pytest.approx(
        max(MODEL.num_weights * 2 / 10e9, multiply_adds(MODEL, [Part(1)]) / 4e9)
    )
    assert floor.seconds(long) == multiply_adds(MODEL, long) / 4e9, "by the best rate, whichever number of rows it has"
    fast = Floor(MODEL, "bfloat16", Rates(2, 10e9, {"bfloat16": {8: 1e15}}))
    assert fast.seconds(keystroke) == floor.bytes_read(keystroke) / 10e9
    assert tokens(keystroke) == 2


def test_int8_reads_half_and_multiplies_twice() -> None:
    half, whole = (Floor(MODEL, numbers, RATES) for numbers in ("int8", "bfloat16"))
    assert half.bytes_read([Part(1)]) * 2 == whole.bytes_read([Part(1)])
    assert half.seconds([Part(2000)]) * 2 == whole.seconds([Part(2000)])
    assert half.bytes_read([Part(1, 10)]) - half.bytes_read([Part(1)]) == 10 * MODEL.kv_values_per_token * 2
