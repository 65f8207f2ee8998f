"""Batches, losses, and runs that are stopped and go on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from training.dataset import Guard
from training.teacher import Vectors
from training.train import Examples, collate, loss_of, neighbour_recall, rotation, steps, variants

from tests.checkpoints import BUILTIN
from training import teacher, train


def made(count: int = 3_000, width: int = 16) -> Examples:
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 40, count)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    vectors = draw.standard_normal((count, width)).astype(np.float16)
    return Examples(draw.integers(0, 9, starts[-1]).astype(np.int32), starts, np.arange(count), vectors)


@pytest.mark.parametrize("scale", [1, 3])
def test_steps_are_the_same_each_time_and_fit(scale: int) -> None:
    examples = made()
    groups = [np.arange(start, 3_000, 30) for start in range(30)]
    one, other = (list(islice(steps(examples, groups, 2, scale), 30)) for _ in range(2))
    for (left, left_bank), (right, right_bank) in zip(one, other, strict=True):
        assert len(left) == 2
        assert all((a == b).all() for a, b in zip(left, right, strict=True))
        assert (left_bank == right_bank).all()
        for batch in left:
            assert len(batch) * examples.lengths[batch].max() <= scale * train.BATCH
            assert 8 <= len(batch) <= scale * train.BATCH_TEXTS


def test_collate_pads_to_the_right() -> None:
    examples = made(20)
    ids, ends = collate(examples, np.array([3, 7]), 99)
    for row, example in enumerate((3, 7)):
        own = examples.ids[examples.starts[example] : examples.starts[example + 1]]
        assert ids[row, : len(own)].tolist() == own.tolist()
        assert (ids[row, len(own) :] == 99).all()
        assert ends[row] == len(own) - 1


def test_loss_is_least_at_the_target() -> None:
    torch.manual_seed(0)
    target, bank = torch.randn(12, 384), torch.nn.functional.normalize(torch.randn(30, 384), dim=-1)
    same = torch.zeros(12, 30, dtype=torch.bool)
    at, distance = loss_of(5 * target, target, bank, same)
    off, further = loss_of(target + 0.5 * torch.randn(12, 384), target, bank, same)
    assert at.item() == pytest.approx(0, abs=1e-4)
    assert distance.item() == pytest.approx(0, abs=1e-5)
    assert off.item() > 1
    assert further.item() > 0.05


def test_rotation_keeps_cosines_and_orders_energy() -> None:
    draw = np.random.default_rng(1)
    vectors = (draw.standard_normal((500, 24)) * np.linspace(0.1, 3, 24)).astype(np.float16)
    axes = rotation(vectors)
    np.testing.assert_allclose(axes.T @ axes, np.eye(24), atol=1e-5)
    energy = np.square(vectors.astype(np.float32) @ axes).sum(0)
    assert (np.diff(energy) <= 1e-2).all()


def test_neighbour_recall() -> None:
    vectors = np.eye(5, dtype=np.float32)
    vectors[1] = [0.8, 0.6, 0, 0, 0]
    assert neighbour_recall(vectors, vectors, 5) == 1.0
    shuffled = vectors[[2, 0, 1, 3, 4]]
    assert neighbour_recall(shuffled, vectors, 1) < 1.0


def test_variants_are_the_same_text() -> None:
    draw = random.Random(0)
    for _ in range(200):
        for text in variants("The Cat sat.", draw):
            assert text.split("Query:")[-1].strip().rstrip(".").lower() == "the cat sat"


def test_token_texts_never_ask_for_a_word_of_the_evaluation() -> None:
    tokenizer = Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))
    texts = train.token_texts(tokenizer, Guard(["king"]))
    assert len(texts) == tokenizer.get_vocab_size()
    assert "king" not in texts
    assert texts.count("a king") >= 2


def test_teacher_computes_what_is_missing_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    class Fake:
        def embed(self, texts: list[str]) -> np.ndarray:
            asked.append(texts)
            return np.array([[len(text)] * 384 for text in texts], np.float32)

    monkeypatch.setattr(teacher, "_teacher", Fake())
    teacher._shard((["a", "bb"], tmp_path))
    teacher._shard((["bb", "cccc"], tmp_path))
    vectors = Vectors(tmp_path)
    assert vectors.of(["cccc", "a", "bb"])[:, 0].tolist() == [4, 1, 2]
    with pytest.raises(KeyError):
        vectors.of(["never"])
    assert len(vectors.rows) == 3


RUN = """
import sys
from pathlib import Path
from training.train import Job, run
if __name__ == "__main__":
    run(Job(Path(sys.argv[1]), 60_000, 2, save_every=2, look_every=5))
"""


def stored(folder: Path) -> Path:
    """A folder that training can start from: 600 texts of random tokens and targets."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 12, 600)
    vectors = draw.standard_normal((600, 384))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    (folder / "tokenizer.json").write_bytes((BUILTIN / "tokenizer.json").read_bytes())
    (folder / "validation.json").write_text('["one text", "another text", "a third"]')
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    np.savez(
        folder / "examples.npz",
        ids=draw.integers(0, size - 1, lengths.sum()).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        targets=np.arange(600),
        vectors=vectors,
        tokens=draw.standard_normal((size, 384)).astype(np.float16),
        validation=vectors[:3],
    )
    (folder / "run.py").write_text(RUN)
    return folder


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(train.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    whole, killed = stored(tmp_path / "whole"), stored(tmp_path / "killed")

    def start(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(folder / "run.py"), str(folder)]
        return subprocess.Popen(command, env=environment, start_new_session=True)

    assert start(whole).wait() == 0
    process = start(killed)
    while not (killed / "state.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "student.pt").exists()
    assert start(killed).wait() == 0
    one, other = (torch.load(folder / "student.pt", weights_only=True) for folder in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.isfinite(weight).all() for weight in one.values())
    log = (killed / "log.jsonl").read_text()
    assert '"recall"' in log
