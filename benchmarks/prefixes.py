"""Many vectors from one reading: what 64 beginnings of a text cost beside the plain vector of the whole.

    make bench-prefixes                                   # the built-in model and the 0.6B shape

Prints a Markdown table. Both run in turns in one process, each on a text that is not cached; each figure is the best of
several runs. The last column is what 64 requests of their own would cost: each beginning read for itself, in one batch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from streambed import Engine
from streambed.bench.checkpoint import kept_checkpoint, make_0_6b
from streambed.bench.texts import Texts
from streambed.machine import usable_cores

TOKENS, PROBES, ROUNDS = 2000, 64, 5


def word_ends(text: str) -> list[int]:
    """`PROBES` places at ends of words, as evenly as they come; the last is the text's end."""
    words = text.split(" ")
    ends = [len(" ".join(words[: round((number + 1) * len(words) / PROBES)])) for number in range(PROBES)]
    assert ends[-1] == len(text)
    return ends


def middles(text: str) -> list[int]:
    """As many places, each but the last inside a word."""
    ends = word_ends(text)
    return [end - 2 for end in ends[:-1]] + ends[-1:]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["builtin", "0.6B"], help="checkpoints; 0.6B is a random one")
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"| model | plain vector ms | {PROBES} at ends of words | inside words | each on its own |\n"
        "|---|---:|---:|---:|---:|"
    )
    for model in options.models:
        name = model
        if model == "0.6B":
            name = str(kept_checkpoint())
            make_0_6b(kept_checkpoint())
        with Engine.load(name) as engine:
            measure(engine, model)


def measure(engine: Engine, model: str) -> None:
    texts = Texts(0)

    def run(work: Callable[[str], object]) -> float:
        text = texts.text(TOKENS)
        engine.evict()
        started = time.perf_counter()
        work(text)
        return time.perf_counter() - started

    cases: list[Callable[[str], object]] = [
        lambda text: engine.embed([text]),
        lambda text: engine.prefix_embeddings(text, offsets=word_ends(text)),
        lambda text: engine.prefix_embeddings(text, offsets=middles(text)),
    ]
    times: list[list[float]] = [[] for _ in cases]
    for case in cases:
        run(case)
    for _ in range(ROUNDS):
        for taken, case in zip(times, cases, strict=True):
            taken.append(run(case))
    apart = run(lambda text: engine.embed([text[:end] for end in word_ends(text)]))
    plain = min(times[0])
    ratios = [f"{min(taken) / plain:.2f}" for taken in times[1:]]
    print(f"| {model} | {plain * 1000:.0f} | {ratios[0]} | {ratios[1]} | {apart / plain:.1f} |", flush=True)


if __name__ == "__main__":
    main()
