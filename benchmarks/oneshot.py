"""One-shot texts and appends, in turns with sentence-transformers on the same weights.

    make bench                      # the shape of 0.6B, random weights, bfloat16 where the processor has it
    make bench ARGS="--dtype float32"

Prints a Markdown table. Both run with the same threads; each figure is the best of several runs, taken in turns, since
machines are noisy. sentence-transformers has no appends: its figure there is the whole text again.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.checkpoint import make_0_6b
from streambed import Engine
from streambed.machine import processor, usable_cores

ROUNDS = 4


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def milliseconds(seconds: float) -> str:
    """Two figures, or whole milliseconds."""
    return f"{seconds * 1000:.{0 if seconds > 0.0095 else 1}f}"


def resident() -> float:
    """GiB of memory that this process holds and no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / (1 << 20)
    raise RuntimeError("/proc/self/status has no RssAnon")


class Peer:
    """sentence-transformers with the same weights, number format and threads, in a process of its own: two pools of OpenMP
    workers in one process would slow each other down, and both figures would be wrong."""

    def __init__(self, directory: Path, dtype: str, threads: int, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve_peer, args=(theirs, directory, dtype, threads, device), daemon=True
        )
        self._process.start()
        self._pipe.recv()

    def embed(self, texts: list[str]) -> float:
        """Seconds that it took."""
        self._pipe.send(texts)
        seconds: float = self._pipe.recv()
        return seconds


def _serve_peer(
    pipe: Connection[float | None, list[str]], directory: Path, dtype: str, threads: int, device: str
) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model: Any = SentenceTransformer(str(directory), device=device, model_kwargs={"dtype": getattr(torch, dtype)})
    pipe.send(None)
    while True:
        try:
            texts = pipe.recv()
        except EOFError:  # the benchmark is over
            return
        started = time.perf_counter()
        with torch.inference_mode():
            model.encode(texts, normalize_embeddings=True, show_progress_bar=False, batch_size=32)
        pipe.send(time.perf_counter() - started)


def text_of(engine: Engine, tokens: int, salt: int) -> str:
    """A text of exactly `tokens` tokens, with its end token; another salt, another text from the first token on."""
    words = ["river", "stone", "light", "paper", "music", "green", "seven", "cloud", "train", "apple"]
    text = "".join(f" {words[(salt * 7 + n * (salt + 3)) % 10]}" for n in range(tokens - 1))
    assert len(engine.tokenizer.encode(text)) + 1 == tokens, "these words are one token each"
    return text


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint; by default a random one of 0.6B shape, made once")
    parser.add_argument("--cache", type=Path, default=Path("build/benchmarks"), help="where that one is kept")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    directory = options.model or make_0_6b(options.cache / "qwen3-0.6b-random")

    before, started = resident(), time.perf_counter()
    engine = Engine.load(str(directory), dtype=options.dtype, device=options.device)
    ready = time.perf_counter() - started
    gc.collect()
    weights = sum(file.stat().st_size for file in engine.checkpoint.weight_files) / (1 << 30)
    info = engine.info
    print(
        f"{platform.processor() or platform.machine()}, {processor()}, {options.threads} threads, torch {torch.__version__}"
    )
    if info.device.startswith("cuda"):
        print(torch.cuda.get_device_name(info.device), end=", ")
    print(f"{info.dtype}, steps of {info.max_batch_tokens} rows, ready in {ready:.1f} s,", end=" ")
    print(f"{resident() - before:.2f} GiB for {weights:.2f} GiB of weights on disk\n")
    peer = Peer(directory, info.dtype, options.threads, info.device)

    print("| case | Streambed ms | sentence-transformers ms | ratio |\n|---|---:|---:|---:|")
    salt = 0

    def row(case: str, ours: Callable[[], float], theirs: Callable[[], float]) -> None:
        rounds = 2 if max(ours(), theirs()) > 4.0 else ROUNDS
        own, other = [], []
        for _ in range(rounds):  # in turns, so that a slow minute of the machine hits both
            own.append(ours())
            other.append(theirs())
        ratio = min(other) / min(own)
        print(f"| {case} | {milliseconds(min(own))} | {milliseconds(min(other))} | {ratio:.1f} |", flush=True)

    def one_shot(count: int, tokens: int) -> None:
        def ours() -> float:
            nonlocal salt
            salt += 100
            texts = [text_of(engine, tokens, salt + n) for n in range(count)]
            engine.evict()  # no text is known from before
            return timed(lambda: engine.embed(texts))

        texts = [text_of(engine, tokens, n) for n in range(count)]
        row(f"{tokens} tokens" if count == 1 else f"{count} x {tokens} tokens", ours, lambda: peer.embed(texts))

    def append(context: int) -> None:
        with engine.open_session(text_of(engine, context, 5)) as session:
            session.embedding()

            def ours() -> float:
                session.embedding()
                started = time.perf_counter()
                session.append(" and these eight more words come here now")
                session.embedding()
                return time.perf_counter() - started

            text = text_of(engine, context + 8, 5)
            row(f"append 8 tokens after {context:,}", ours, lambda: peer.embed([text]))

    for tokens in (8, 32, 128, 512, 2048):
        one_shot(1, tokens)
    one_shot(20, 10)
    for context in (500, 2000, 5500):
        append(context)
    engine.close()


if __name__ == "__main__":
    main()
