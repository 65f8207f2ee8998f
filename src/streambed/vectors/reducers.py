"""Smaller vectors by a trained map: principal components, a projection head, or a network that learnt UMAP's places.

A reducer is a folder: `reducer.json` says what it is and which model's vectors it is for, `reducer.safetensors` holds a few
linear layers with a rectifier between them. It is made by `streambed reduce fit`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from streambed.errors import CheckpointError, Internal, InvalidRequest
from streambed.vectors.shape import EncodingFormat, check_dimensions, check_encoding, encode, shorten

Vectors = NDArray[np.float32]
Method = Literal["pca", "projection", "umap"]
Metric = Literal["cosine", "euclidean"]

FORMAT: Literal[1] = 1
CARD, WEIGHTS = "reducer.json", "reducer.safetensors"
MAX_LAYERS = 8
_MAX_CARD, _MAX_WEIGHTS = 64 << 10, 256 << 20
"""Files with more bytes are refused unread."""


class Card(BaseModel):
    """`reducer.json`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: Literal[1]
    method: Method
    metric: Metric
    """`cosine`: vectors are of unit length. `euclidean`: they are coordinates, and distance is what counts."""
    input_dimensions: int = Field(gt=0)
    dimensions: int = Field(gt=0)
    model: str
    """Name of the model whose vectors it takes."""
    model_fingerprint: str
    texts: int = Field(ge=0)
    """How many it was fitted on."""


@dataclass(frozen=True)
class Reducer:
    """A map from a model's unit vectors to smaller ones."""

    card: Card
    layers: tuple[tuple[Vectors, Vectors], ...]
    """Weight [out, in] and bias [out] of each."""
    fingerprint: str
    """Hash of everything that decides a vector, the model's fingerprint included."""

    @classmethod
    def build(cls, card: Card, layers: tuple[tuple[Vectors, Vectors], ...]) -> Self:
        """A reducer of trained layers. Raises ValueError where they do not fit together or are not finite."""
        size = card.input_dimensions
        if not 1 <= len(layers) <= MAX_LAYERS:
            raise ValueError(f"it has {len(layers)} layers")
        for number, (weight, bias) in enumerate(layers):
            if weight.dtype != np.float32 or bias.dtype != np.float32:
                raise ValueError(f"layer {number} is not float32")
            if weight.ndim != 2 or weight.shape[1] != size or bias.shape != weight.shape[:1]:
                raise ValueError(f"layer {number} has shapes {weight.shape} and {bias.shape}, and takes {size} numbers")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise ValueError(f"layer {number} has numbers that are not finite")
            size = weight.shape[0]
        if size != card.dimensions:
            raise ValueError(f"its last layer gives {size} numbers, and {CARD} says {card.dimensions}")
        digest = hashlib.sha256(json.dumps([card.model_fingerprint, card.method, card.metric]).encode())
        for weight, bias in layers:
            digest.update(repr(weight.shape).encode() + weight.tobytes() + bias.tobytes())
        return cls(card, layers, digest.hexdigest()[:32])

    @classmethod
    def load(cls, folder: str | Path, model_fingerprint: str) -> Self:
        """Reads a reducer of the model with this fingerprint (`engine.info.fingerprint`).

        Raises:
            CheckpointError: as `read` and `check`.
        """
        reducer = cls.read(folder)
        reducer.check(folder, model_fingerprint)
        return reducer

    def check(self, folder: str | Path, model_fingerprint: str) -> None:
        """Raises CheckpointError, in one line that names the folder, unless it was fitted to the vectors of this model."""
        card = self.card
        if card.model_fingerprint != model_fingerprint:
            raise CheckpointError(
                f"{folder}: was fitted to vectors of {card.model}, fingerprint {card.model_fingerprint}; "
                f"this model's is {model_fingerprint}"
            )

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Reads a reducer, whichever model it is for.

        Raises:
            CheckpointError: a file is missing, damaged or not a reducer's. In one line.
        """
        path = Path(folder)
        try:
            card = Card.model_validate_json(_read(path / CARD, _MAX_CARD))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise CheckpointError(f"{path / CARD}: is no reducer's card: {where}: {first['msg']}") from None
        try:
            tensors = load(_read(path / WEIGHTS, _MAX_WEIGHTS))
            names = [(f"layers.{number}.weight", f"layers.{number}.bias") for number in range(len(tensors) // 2)]
            if set(tensors) != {name for pair in names for name in pair}:
                raise ValueError(f"its tensors are {', '.join(sorted(tensors)[:4]) or 'none'}, not those of layers")
            return cls.build(card, tuple((tensors[weight], tensors[bias]) for weight, bias in names))
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path / WEIGHTS}: {error}") from None

    def save(self, folder: str | Path) -> None:
        """Writes both files; a folder that is there is completed or overwritten."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Vectors] = {}
        for number, (weight, bias) in enumerate(self.layers):
            tensors |= {f"layers.{number}.weight": weight, f"layers.{number}.bias": bias}
        # The card last: a folder without one is not taken for a reducer.
        (path / CARD).unlink(missing_ok=True)
        (path / WEIGHTS).write_bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))
        (path / CARD).write_text(self.card.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def reduce(self, vectors: Vectors) -> Vectors:
        """float32 [n, input_dimensions], of unit length, to [n, dimensions], which are that too unless they are coordinates.

        Raises:
            Internal: a vector comes out without direction.
        """
        for number, (weight, bias) in enumerate(self.layers):
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
                vectors = (np.maximum(vectors, 0) if number else vectors) @ weight.T + bias
        if self.card.metric == "cosine":
            return shorten(vectors)
        if not np.isfinite(vectors).all():
            raise Internal("the reducer gave coordinates that are not finite")
        return vectors

    def about(self) -> dict[str, Any]:
        """What `/info` says of it."""
        card = self.card
        return {
            "method": card.method, "metric": card.metric, "dimensions": card.dimensions, "fingerprint": self.fingerprint
        }  # fmt: skip


@dataclass(frozen=True)
class Form:
    """How somebody wants vectors: cut or reduced, and how they travel."""

    unit_dimensions: int
    """Dimensions of the model's own vectors, cut or whole."""
    cut: int | None = None
    encoding_format: EncodingFormat = "float"
    reducer: Reducer | None = None

    @property
    def dimensions(self) -> int:
        """Dimensions of the vectors that are sent."""
        return self.unit_dimensions if self.reducer is None else self.reducer.card.dimensions

    def unit(self, hidden: Vectors) -> Vectors:
        """The model's own vectors: float32 [n, hidden] to unit length, cut where nothing comes after."""
        return shorten(hidden, self.cut)

    def finish(self, unit: Vectors) -> Vectors:
        """From the model's own vectors to those that are sent: float32 [n, dimensions]."""
        return unit if self.reducer is None else self.reducer.reduce(unit)

    def vectors(self, hidden: Vectors) -> Vectors:
        """From final hidden states to the vectors that are sent."""
        return self.finish(self.unit(hidden))

    def encode(self, vector: Vectors) -> dict[str, Any]:
        """See `shape.encode`."""
        return encode(vector, self.encoding_format)


@dataclass(frozen=True)
class Reducers:
    """A server's reducers, by the names that requests use."""

    hidden_size: int
    reducers: Mapping[str, Reducer]
    default_dimensions: int | None = None
    """Dimensions of vectors where a request does not say; all if None."""

    def form(self, dimensions: int | None, encoding_format: EncodingFormat, name: str | None = None) -> Form:
        """Raises InvalidRequest: dimensions out of range, a reducer that is not here, both at once, or an encoding that does
        not go with so many dimensions."""
        if name is None:
            check_dimensions(dimensions, self.hidden_size)
            cut = dimensions or self.default_dimensions
            form = Form(cut or self.hidden_size, cut, encoding_format)
        else:
            reducer = self.reducers.get(name)
            if reducer is None:
                here = f"this server has {', '.join(self.reducers)}" if self.reducers else "this server has none"
                raise InvalidRequest(f"no such reducer here; {here}", "reducer")
            form = Form(self.hidden_size, None, encoding_format, reducer)
            if dimensions is not None and dimensions != form.dimensions:
                message = f"dimensions is {dimensions}, but this reducer gives {form.dimensions}"
                raise InvalidRequest(message, "dimensions")
        check_encoding(encoding_format, form.dimensions)
        return form


def _read(path: Path, most: int) -> bytes:
    try:
        if path.stat().st_size > most:
            raise CheckpointError(f"{path}: has more than {most:,} bytes; no reducer's file does")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
