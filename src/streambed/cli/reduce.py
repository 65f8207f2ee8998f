"""`streambed reduce`: fit a map to smaller vectors, and see what it keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from streambed.cli.interrupt import cleaning_up
from streambed.cli.options import Command, load_engine, model_options, option, text_options
from streambed.cli.outputs import show_progress, why_unwritable
from streambed.cli.texts import batches, read, refuse_empty
from streambed.errors import SettingsError
from streambed.settings import Settings

if TYPE_CHECKING:
    from streambed.engine.info import EngineInfo
    from streambed.vectors.reducers import Method, Metric, Reducer, Vectors

HELD_OUT = 5
"""One text in so many is held out for `eval`; which ones does not depend on the other texts."""
COUNTS = (1, 10, 100)


class Row(NamedTuple):
    """A line of the report."""

    name: str
    dimensions: int
    size: int
    """Bytes of a vector."""
    kept: list[float]


@click.group()
def reduce() -> None:
    """Train a map to smaller vectors, and measure what it keeps.

    \b
    streambed reduce fit --method pca --dimensions 128 --input texts.txt --output small
    streambed reduce eval small --input texts.txt
    streambed serve --reducer small=small
    """


@reduce.command(cls=Command)
@option(
    "--method",
    type=click.Choice(["pca", "projection", "umap"]),
    required=True,
    help="How to train; see docs/vectors.md.",
    group="Reducer",
)
@option(
    "--dimensions",
    type=int,
    metavar="N",
    required=True,
    help="How many dimensions the smaller vectors have.",
    group="Reducer",
)
@option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder to write.", group="Reducer")
@text_options(required=True)
@model_options
def fit(
    method: Method,
    dimensions: int,
    output: Path,
    inputs: tuple[str, ...],
    field: str,
    **model: Any,
) -> None:
    """Fit a reducer to the vectors of your texts. One text in five is left out, so that `eval` can use it.

    Use the model and the --dtype of the server that will use the reducer. Brackets show the default of a flag and its
    environment variable.
    """
    import sklearn  # noqa: F401 - before torch: the extra that brings both is the one to name

    from streambed.vectors.fit import check_size, require
    from streambed.vectors.fit import fit as fit_reducer

    require(method)
    if output.exists() and not output.is_dir():
        raise SettingsError(f"--output {output}: is a file; a folder is expected")
    there = next(each for each in (output.absolute(), *output.absolute().parents) if each.exists())
    if (reason := why_unwritable(there / "reducer.json")) is not None:
        raise SettingsError(f"--output {output}: cannot be written: {reason}")

    def check(info: EngineInfo) -> None:
        check_size(dimensions, info.dimensions)
        output.mkdir(parents=True, exist_ok=True)

    info, vectors, left_out = _embed(inputs, field, model, check, held_out=False)
    with cleaning_up(), show_progress("Fitting", 1.0) as show:
        reducer = fit_reducer(vectors, method, dimensions, info.model, info.fingerprint, show)
    try:
        reducer.save(output)
    except OSError as error:
        raise SettingsError(f"--output {output}: cannot be written: {error.strerror or error}") from None
    click.echo(
        f"{output}: {method}, {info.dimensions} to {dimensions} dimensions, fitted to {len(vectors):,} texts "
        f"({left_out:,} left out for eval), fingerprint {reducer.fingerprint}"
    )


@reduce.command("eval", cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
@option(
    "--all",
    "everything",
    is_flag=True,
    help="Use all texts; for a file that the reducer was not fitted to.",
    group="Reducer",
)
@option(
    "--plot",
    type=click.Path(path_type=Path),
    shown="recall.png in the folder",
    help="Picture to write.",
    group="Reducer",
)
@text_options(required=True)
@model_options
def evaluate(
    folder: Path,
    everything: bool,
    plot: Path | None,
    inputs: tuple[str, ...],
    field: str,
    **model: Any,
) -> None:
    """Print how many of the nearest neighbours of each text smaller vectors keep, for texts that `fit` left out.

    Brackets show the default of a flag and its environment variable.
    """
    import matplotlib  # noqa: F401 - before torch, and before anything is computed

    from streambed.vectors.reducers import Reducer

    reducer = Reducer.read(folder)
    target = plot or folder / "recall.png"
    if (reason := why_unwritable(target)) is not None:
        raise SettingsError(f"--plot {target}: cannot be written: {reason}")
    _, vectors, _ = _embed(
        inputs, field, model, lambda info: reducer.check(folder, info.fingerprint), None if everything else True
    )
    counts = [count for count in COUNTS if count < len(vectors) / 2]
    if not counts:
        raise SettingsError(f"{len(vectors)} texts are held out; that is too few to find neighbours")
    rows = report(vectors, reducer, counts)
    click.echo(
        f"Share of each text's nearest neighbours, among {len(vectors):,} held-out texts, that smaller vectors find again:\n"
    )
    click.echo(
        f"{'vectors':24}{'dimensions':>11}{'bytes':>7}" + "".join(f"{f'recall@{count}':>12}" for count in counts)
    )
    for row in rows:
        shares = "".join(f"{share:12.3f}" for share in row.kept)
        click.echo(f"{row.name:24}{row.dimensions:11}{row.size:7}{shares}")
    draw(rows, counts, target)
    click.echo(f"\npicture: {target}")


def report(vectors: Vectors, reducer: Reducer, counts: list[int]) -> list[Row]:
    """Recall of whole vectors, of vectors cut to the reducer's size and of reduced ones, each also in fewer bits."""
    from streambed.vectors.recall import as_int8, as_ubinary, kept, neighbours, similarity
    from streambed.vectors.shape import shorten

    most, card = max(counts), reducer.card
    nearest = neighbours(vectors, most, similarity("cosine"))
    kinds: list[tuple[str, Vectors, Metric]] = [
        ("whole", vectors, "cosine"),
        (f"cut to {card.dimensions}", shorten(vectors, card.dimensions), "cosine"),
        (card.method, reducer.reduce(vectors), card.metric),
    ]
    rows = []
    for name, these, by in kinds:
        dimensions = these.shape[1]
        forms = [(name, these, 4 * dimensions), (f"{name}, int8", as_int8(these), dimensions)]
        if dimensions % 8 == 0 and by == "cosine":
            forms.append((f"{name}, ubinary", as_ubinary(these), dimensions // 8))
        for form, coarse, size in forms:
            found = neighbours(coarse, most, similarity(by))
            rows.append(Row(form, dimensions, size, kept(nearest, found, counts)))
    return rows


def draw(rows: list[Row], counts: list[int], target: Path) -> None:
    """The report as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = rows[1:]  # whole vectors find all
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(shown) + 1.6), layout="constrained")
    height = 0.8 / len(counts)
    for number, count in enumerate(counts):
        places = [place + number * height for place in range(len(shown))]
        bars = axes.barh(places, [row.kept[number] for row in shown], height, label=f"recall@{count}")
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    axes.set_yticks(
        [place + 0.4 - height / 2 for place in range(len(shown))],
        labels=[f"{row.name} ({row.size} bytes)" for row in shown],
    )
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.05), xlabel="share of the nearest neighbours by whole vectors that are found")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.6 / len(shown)), ncols=len(counts), frameon=False)
    try:
        figure.savefig(target, dpi=120)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--plot {target}: cannot be written: {error}") from None
    finally:
        pyplot.close(figure)


def _embed(
    inputs: tuple[str, ...],
    field: str,
    model: dict[str, Any],
    check: Callable[[EngineInfo], None],
    held_out: bool | None,
) -> tuple[EngineInfo, Vectors, int]:
    """Vectors of the distinct texts that are held out, of the others, or of all; and how many texts are left out.

    check: looks at the model before anything is computed.
    """
    import numpy as np

    items = list(read(inputs, field))
    refuse_empty(items)
    every = dict.fromkeys(item.text for item in items)
    texts = [text for text in every if held_out is None or _is_held_out(text) == held_out]
    with (
        load_engine(Settings(**model)) as engine,
        cleaning_up(),
        show_progress("Embedding", len(texts)) as show,
    ):
        try:
            check(engine.info)
        except OSError as error:
            raise SettingsError(f"--output: cannot be written: {error}") from None
        vectors = np.empty((len(texts), engine.info.dimensions), dtype=np.float32)
        for batch in batches(iter(range(len(texts)))):
            asked = [texts[at] for at in batch]
            vectors[batch] = engine.embed(asked, dimensions=engine.info.dimensions, long_input="merge")
            show(batch[-1] + 1)
        return engine.info, vectors, len(every) - len(texts)


def _is_held_out(text: str) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % HELD_OUT == 0
