"""The student is Qwen3: transformers and Streambed's engine give the vectors that it was trained to give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from training.export import export
from training.student import Shape, Student
from training.train import embed, first_weights

from tests.checkpoints import BUILTIN, load_engine

TEXTS = ["a", "The quick brown fox jumps over the lazy dog.", "wo ist der Bahnhof?", "犬", "SHOUTING " * 30]


def exported(work: Path) -> tuple[Student, Tokenizer]:
    (work / "tokenizer.json").write_bytes((BUILTIN / "tokenizer.json").read_bytes())
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    torch.manual_seed(3)
    student = Student(Shape(vocab_size=tokenizer.get_vocab_size()), torch.float32)
    first_weights(student, torch.randn(tokenizer.get_vocab_size(), 384) / 384**0.5)
    for weight in student.parameters():  # what the file can hold
        weight.data = weight.data.to(torch.bfloat16).float()
    torch.save(student.state_dict(), work / "student.pt")
    export(work, work / "checkpoint")
    return student, tokenizer


def test_trained_as_served(tmp_path: Path) -> None:
    student, tokenizer = exported(tmp_path)
    wanted = embed(student, tokenizer, TEXTS)
    with load_engine(tmp_path / "checkpoint") as engine:
        served = engine.embed(TEXTS)
    assert (served * wanted).sum(1).min() > 0.99999

    from transformers import AutoModel  # late: it takes seconds

    model = AutoModel.from_pretrained(str(tmp_path / "checkpoint"), dtype=torch.float32).eval()
    for text, vector in zip(TEXTS, wanted, strict=True):
        with torch.no_grad():
            last = model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0, -1].numpy()
        assert last @ vector / np.linalg.norm(last) > 0.99999


def test_starts_as_a_mean_of_token_vectors() -> None:
    tokens = torch.randn(50, 384)
    student = Student(Shape(vocab_size=50), torch.float32)
    torch.manual_seed(0)
    first_weights(student, tokens)
    ids = torch.randint(0, 49, (8, 7))
    ids[:, -1] = 49
    with torch.no_grad():
        found = student(ids, torch.full((8,), 6))
    mean = tokens[ids[:, :-1]].mean(1)
    assert torch.cosine_similarity(found, mean).min() > 0.6
