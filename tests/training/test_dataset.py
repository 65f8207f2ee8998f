"""What is held out stays out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from training.dataset import Dataset, Guard, _prefix, canonical, usable, written_sets


def test_canonical_sets_case_and_punctuation_aside() -> None:
    assert canonical("  What's a “Tiger”?!") == canonical("what s a TIGER") == "what s a tiger"
    assert canonical("ﬁne") == "fine"
    assert canonical("犬が好き。") == canonical("犬が好き")


@pytest.mark.parametrize("text", ["Tiger", " tiger! ", "“TIGER”."])
def test_guard_refuses_a_text_however_it_is_written(text: str) -> None:
    guard = Guard(["tiger"])
    assert not guard.allows(text)
    assert guard.allows("a tiger sleeps")


def test_guard_knows_sentences_of_a_paragraph() -> None:
    guard = Guard(["The museum is closed on Mondays."])
    assert not guard.allows(
        "We went to town. the museum is closed on mondays! It rained all day.".replace("the", "The")
    )
    assert guard.allows("The museum is closed on Mondays and Tuesdays. It rained.")


def test_prefixes_are_beginnings() -> None:
    text = "one two three four five six seven"
    found = {_prefix(text, random.Random(seed)) for seed in range(200)}
    assert all(text.startswith(prefix) and prefix != text for prefix in found)
    assert len(found) > 10


def test_usable() -> None:
    assert usable("a text")
    assert usable("犬が好き")
    assert not usable("x")
    assert not usable("0x1f 0x2e 99 12")
    assert not usable("word " * 200)


def test_dataset_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"
    data = Dataset(texts=["é"], sources=["x"], english=[0], translations={"de": [("a", "b")]})
    data.save(file)
    assert Dataset.load(file).texts == ["é"]
    assert Dataset.load(file).translations["de"] == [["a", "b"]]


def test_written_sets_are_what_the_evaluation_expects() -> None:
    own = written_sets()
    assert [len(group["pairs"]) for group in own["everyday"]["sets"]] == [20] * 5
    assert len(own["words"]["trials"]) == 50
    assert all(len(trial) == 3 for trial in own["words"]["trials"])
    assert {len(row) for row in own["multilingual"]["sentences"]} == {6}
    assert all(0 <= answer < len(own["search"]["documents"]) for _, answer in own["search"]["queries"])
