"""`make eval-model`: the built-in checkpoint beside its teacher (and any other) on held-out texts.

Checkpoints run in Streambed's own engine, in float32; the teacher as in training. What is held out, and by which rule:
dataset.py.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from streambed import Engine
from training.__main__ import BUILTIN, WORK
from training.dataset import Dataset, held_synsets, lee_documents, similarity_words, written_sets
from training.fetch import LANGUAGES, fetch
from training.teacher import Teacher, digest, vocabulary
from training.train import neighbour_recall

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]

TARGETS = {
    "teacher's nearest, unseen sources, R@10": 0.80,
    "the same at 128 dimensions": 0.75,
    "Spearman with the teacher, near neighbours": 0.72,
    "Spearman with the teacher, mixed pairs": 0.88,
    "Lee documents, Pearson": 0.63,
    "WordSim-353 bare, Spearman": 0.62,
    "SimLex-999 bare, Spearman": 0.36,
    '"what is X?" to gloss of 5,000, R@10': 0.42,
    "upper case to lower case, cosine": 0.9,
    "de to English of 1,000, R@1": 0.5,
    "fr to English of 1,000, R@1": 0.5,
    "es to English of 1,000, R@1": 0.5,
    "everyday questions, fewest right of 20": 17,
    "synonym before look-alike, of 50": 45,
}
PREFIX_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class Scores:
    table: dict[str, float] = field(default_factory=dict)
    prefixes: list[float] = field(default_factory=list)


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    short = vectors[:, :dimensions]
    found: Vectors = short / np.linalg.norm(short, axis=1, keepdims=True)
    return found


def correlation(ours: Vectors, scores: list[float], others: Vectors) -> float:
    return float(spearmanr((ours * others).sum(1), scores).statistic)


def retrieval(queries: Vectors, documents: Vectors, answers: NDArray[np.int64], within: int = 1) -> float:
    """How often a query's answer is among its `within` nearest documents; ties count against."""
    scores = queries @ documents.T
    rank = (scores >= scores[np.arange(len(queries)), answers][:, None]).sum(1)
    return float((rank <= within).mean())


def _teacher_pairs(
    theirs: Vectors,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """20,000 random pairs, and each text with one of its ten nearest by the teacher."""
    draw = np.random.default_rng(0)
    count = len(theirs)
    one, other = draw.integers(0, count, (2, 20_000))
    apart = one != other
    scores = theirs @ theirs.T
    np.fill_diagonal(scores, -2)
    nearest = np.argpartition(-scores, 10, 1)[:, :10]
    near = nearest[np.arange(count), draw.integers(0, 10, count)]
    return one[apart], other[apart], np.arange(count), near


def score(embed: Embed, teacher: Embed, data: Dataset, packages: Path) -> Scores:
    found = Scores()
    table = found.table

    unseen, theirs = embed(data.unseen), teacher(data.unseen)
    for dimensions in (384, 256, 128, 64):
        name = {384: "teacher's nearest, unseen sources, R@10"}.get(dimensions, f"the same at {dimensions} dimensions")
        table[name] = neighbour_recall(cut(unseen, dimensions), theirs, 10)
    for within in (1, 100):
        table[f"the same, R@{within}"] = neighbour_recall(unseen, theirs, within)
    one, other, each, near = _teacher_pairs(theirs)
    pairs = {"near neighbours": (each, near), "random pairs": (one, other)}
    pairs["mixed pairs"] = (np.concatenate([one, each]), np.concatenate([other, near]))
    for name, (left, right) in pairs.items():
        wanted = (theirs[left] * theirs[right]).sum(1).tolist()
        table[f"Spearman with the teacher, {name}"] = correlation(unseen[left], wanted, unseen[right])

    documents, people = lee_documents(packages)
    upper = np.triu_indices(len(documents), 1)
    lee = embed(documents)
    table["Lee documents, Pearson"] = float(np.corrcoef((lee @ lee.T)[upper], np.array(people)[upper])[0, 1])
    for name, scored in similarity_words(packages).items():
        left_words, right_words = embed([row[0] for row in scored]), embed([row[1] for row in scored])
        table[f"{name} bare, Spearman"] = correlation(left_words, [row[2] for row in scored], right_words)

    held = held_synsets(packages)
    asked = np.random.default_rng(5).permutation(len(held))[:1_500]
    glosses, questions = (
        embed([synset.gloss for synset in held]),
        embed([f"what is {held[i].words[0]}?" for i in asked]),
    )
    table['"what is X?" to gloss of 5,000, R@10'] = retrieval(questions, glosses, asked, 10)

    prose = [text for text in data.validation if text.count(" ") >= 11 and len(text) < 300][:400]
    whole = embed(prose)
    lower, capitals = embed([text.lower() for text in prose]), embed([text.upper() for text in prose])
    table["upper case to lower case, cosine"] = float((lower * capitals).sum(1).mean())
    instructed = embed(
        [f"Instruct: Given a web search query, retrieve relevant passages\nQuery:{text}" for text in prose]
    )
    table["with and without an instruction, cosine"] = float((whole * instructed).sum(1).mean())
    for share in PREFIX_SHARES:
        starts = [text[: max(1, round(len(text) * share))] for text in prose]
        found.prefixes.append(float((embed(starts) * whole).sum(1).mean()))

    own = written_sets()
    sentences = own["multilingual"]["sentences"]
    everyday_english = embed([row["en"] for row in sentences])
    for language in LANGUAGES:
        rows = sorted(data.translations[language], key=lambda row: digest(row[1]))[:1_000]
        place = np.arange(len(rows))
        size = f"{len(rows):,}"
        table[f"{language} to English of {size}, R@1"] = retrieval(
            embed([a for a, _ in rows]), embed([b for _, b in rows]), place
        )
        texts = embed([row[language] for row in sentences])
        table[f"{language} to English, 60 everyday sentences, R@1"] = retrieval(
            texts, everyday_english, np.arange(len(sentences))
        )

    rights = []
    for group in own["everyday"]["sets"]:
        hits = retrieval(
            embed([q for q, _ in group["pairs"]]), embed([a for _, a in group["pairs"]]), np.arange(len(group["pairs"]))
        )
        rights.append(hits * len(group["pairs"]))
        table[f"everyday questions, {group['name']}, right of 20"] = rights[-1]
    table["everyday questions, fewest right of 20"] = min(rights)
    trials = own["words"]["trials"]
    words, synonyms, alike = (embed([trial[i] for trial in trials]) for i in range(3))
    table["synonym before look-alike, of 50"] = float(((words * synonyms).sum(1) > (words * alike).sum(1)).sum())
    search = own["search"]
    wanted_documents = np.array([answer for _, answer in search["queries"]])
    table["example search, right of 12"] = 12 * retrieval(
        embed([q for q, _ in search["queries"]]), embed(search["documents"]), wanted_documents
    )
    return found


def plot_prefixes(curves: dict[str, list[float]], file: Path) -> None:
    """Similarity to the whole text by the share of it that was seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, values in curves.items():
        axes.plot([100 * share for share in PREFIX_SHARES], values, marker="o", label=name)
    axes.set(
        xlabel="share of the text's characters seen, %", ylabel="cosine to the whole text's vector", ylim=(0, 1.02)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


@click.command()
@click.option("--model", "models", multiple=True, help="NAME=DIRECTORY, repeatable; without it the built-in model.")
@click.option(
    "--work", type=click.Path(path_type=Path), default=WORK, help="Where `make builtin-model` keeps packages and data."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for scores.json and prefixes.png; default: the work folder.",
)
def main(models: tuple[str, ...], work: Path, output: Path | None) -> None:
    """Print the scores of checkpoints beside the teacher's; leave them as scores.json, and the prefix curve as
    prefixes.png.
    """
    from training import dataset

    packages = work / "packages"
    if not (packages / "manifest.json").exists():
        fetch(packages)
    if not (work / "dataset.json").exists():
        dataset.build(packages, vocabulary(packages)).save(work / "dataset.json")
    data = Dataset.load(work / "dataset.json")
    teacher = Teacher(packages)
    kept: dict[str, Vectors] = {}

    def by_teacher(texts: list[str]) -> Vectors:
        key = json.dumps(texts)
        if key not in kept:
            kept[key] = teacher.embed(texts)
        return kept[key]

    named = dict(model.partition("=")[::2] for model in models) or {"built-in": str(BUILTIN)}
    results = {"teacher": score(by_teacher, by_teacher, data, packages)}
    for name, folder in named.items():
        with Engine.load(folder, dtype="float32") as engine:
            results[name] = score(engine.embed, by_teacher, data, packages)
    output = output or work
    as_json = {name: {**result.table, "prefixes": result.prefixes} for name, result in results.items()}
    (output / "scores.json").write_text(json.dumps(as_json, indent=2) + "\n", encoding="utf-8")
    plot_prefixes({name: result.prefixes for name, result in results.items()}, output / "prefixes.png")
    table = Table("held out", "asked for", *results)
    for row in results["teacher"].table:
        asked = TARGETS.get(row)
        cells = [f"{result.table[row]:.3f}".removesuffix(".000") for result in results.values()]
        table.add_row(row, "" if asked is None else f"{asked:g}", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
