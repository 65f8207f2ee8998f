"""What no answer can go below on this machine: its weights read once, or its multiply-adds, at the rates measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streambed.model.checkpoint import Qwen3Config

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Of a weight, by number format."""
KV_BYTES = {"float32": 4, "bfloat16": 2, "int8": 2}
"""Of a key's or value's number, by number format of the weights."""


class Part(NamedTuple):
    """Rows that are computed one after another, after tokens whose keys and values are there."""

    rows: int
    """With the end token, which is the last."""
    before: int = 0


Work = Sequence[Part]
"""What an answer takes."""


@dataclass(frozen=True)
class Rates:
    """What this machine does at most, with the threads that are used, as it was measured."""

    threads: int
    reads: float
    """Bytes a second."""
    products: Mapping[str, Mapping[int, float]]
    """Multiply-adds a second, by number format and by rows that are multiplied at once."""

    def best(self, numbers: str) -> float:
        """Multiply-adds a second in this format, with whichever number of rows is fastest."""
        return max(self.products[numbers].values())


@dataclass(frozen=True)
class Floor:
    """The least that a model's answers take."""

    model: Qwen3Config
    numbers: str
    """Number format of the weights."""
    rates: Rates

    def seconds(self, work: Work) -> float:
        """The longer of reading and computing, as if both were free of all else and went on at once."""
        return max(
            self.bytes_read(work) / self.rates.reads, multiply_adds(self.model, work) / self.rates.best(self.numbers)
        )

    def bytes_read(self, work: Work) -> float:
        """Bytes of all layers' weights, once, and of the keys and values that were there before. The vocabulary is not
        counted: of that only the rows of the text's tokens are read."""
        kept = sum(part.before for part in work) * self.model.kv_values_per_token * KV_BYTES[self.numbers]
        return self.model.num_weights * BYTES[self.numbers] + kept


def multiply_adds(model: Qwen3Config, work: Work) -> float:
    """Of all products and of attention. In the last layer only keys and values are wanted of any row but the end token's."""
    layers = model.num_layers
    a_row = model.num_weights / layers
    last_row = 2 * model.hidden_size * model.num_kv_heads * model.head_dim
    a_pair = 2 * model.num_heads * model.head_dim  # a query with a key, and a share with a value
    total = 0.0
    for rows, before in work:
        pairs = rows * before + rows * (rows + 1) / 2
        total += a_row * ((layers - 1) * rows + 1) + last_row * (rows - 1)
        total += a_pair * ((layers - 1) * pairs + before + rows)
    return total


def tokens(work: Work) -> int:
    """Rows in all."""
    return sum(part.rows for part in work)
