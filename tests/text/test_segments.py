"""Texts beyond the window, divided: nothing is lost, everything fits, and an edit changes little."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed import InvalidRequest, TooLarge
from streambed.text.incremental import Splits
from streambed.text.segments import Segment, content_hash, segments

PIECES = [
    "the",
    " fox",
    " jumps",
    ". ",
    "! ",
    "\n",
    "\n\n",
    " ",
    "中文。",
    "没有标点",
    "ไทย",
    "x" * 300,
    "🙂",
    "\u0301",
    " 12",
]
texts = st.lists(st.sampled_from(PIECES), max_size=80).map("".join)
WORDS = [
    "river",
    "stone",
    "light",
    "window",
    "garden",
    "engine",
    "paper",
    "market",
    "winter",
    "music",
    "letter",
    "bread",
]


def prose(sentences: int, seed: int) -> str:
    draw = random.Random(seed)
    parts = []
    for number in range(sentences):
        words = " ".join(draw.choice(WORDS) + draw.choice(["", "s", "ed"]) for _ in range(draw.randint(4, 14)))
        parts.append(words.capitalize() + "." + ("\n\n" if number % 9 == 8 else " "))
    return "".join(parts)


def hashes(splits: Splits, text: str, max_tokens: int) -> list[str]:
    return [content_hash("", text[one.start : one.end]) for one in segments(splits, "", text, max_tokens)]


def check(splits: Splits, prompt: str, text: str, found: list[Segment], max_tokens: int) -> None:
    assert not text[: found[0].start].strip()
    assert not text[found[-1].end :].strip()
    for one in found:
        assert one.end > one.start or not text
        assert one.ids == splits.tokenizer.encode(prompt + text[one.start : one.end])
        assert len(one.ids) <= max_tokens
    for one, after in pairwise(found):
        assert not text[one.end : max(one.end, after.start)].strip(), "only spaces lie between segments"
        assert after.start > one.start
        assert after.end > one.end


@given(
    text=texts,
    max_tokens=st.integers(20, 60),
    overlap=st.sampled_from([0, 0, 5, 50]),
    prompt=st.sampled_from(["", "Q:"]),
)
def test_nothing_is_lost_and_everything_fits(
    builtin_splits: Splits, text: str, max_tokens: int, overlap: int, prompt: str
) -> None:
    found = list(segments(builtin_splits, prompt, text, max_tokens, overlap))
    check(builtin_splits, prompt, text, found, max_tokens)
    assert found == list(segments(builtin_splits, prompt, text, max_tokens, overlap))


def test_what_fits_is_one_segment(builtin_splits: Splits) -> None:
    text = "One sentence. Another one.\n\nA third."
    (only,) = segments(builtin_splits, "", text, 100)
    assert (only.start, only.end) == (0, len(text))
    (empty,) = segments(builtin_splits, "", "", 100)
    assert (empty.start, empty.end, empty.ids) == (0, 0, [])


def test_segments_end_where_paragraphs_do(builtin_splits: Splits) -> None:
    text = prose(90, 1)
    found = list(segments(builtin_splits, "", text, 200))
    assert len(found) > 3
    assert all(text[one.end :].startswith("\n\n") for one in found[:-1])
    assert all(len(one.ids) >= 90 for one in found[:-1]), "not shorter than half a window"


def test_segments_end_where_sentences_do(builtin_splits: Splits) -> None:
    text = prose(90, 2).replace("\n\n", " ")
    found = list(segments(builtin_splits, "", text, 120))
    assert all(text[one.end - 1] == "." for one in found[:-1])


def test_an_edit_changes_few_segments(builtin_splits: Splits) -> None:
    text = prose(1_000, 3)
    max_tokens = 160
    before = hashes(builtin_splits, text, max_tokens)
    assert len(before) >= 80
    middle = text.index(". ", len(text) // 2) + 2
    for changed in (
        text[:middle] + "A sentence that was not there before. " + text[middle:],
        text[:middle] + text[middle + 300 :],
        text[: middle - 40] + "x" + text[middle - 40 :],
    ):
        after = set(hashes(builtin_splits, changed, max_tokens))
        assert sum(digest in after for digest in before) >= 0.95 * len(before)


def test_overlap(builtin_splits: Splits) -> None:
    text = prose(60, 4)
    found = list(segments(builtin_splits, "", text, 100, overlap=20))
    shared = [one.end - after.start for one, after in pairwise(found)]
    assert all(length > 0 for length in shared)
    for one, after in pairwise(found):
        assert len(builtin_splits.tokenizer.encode(text[after.start : one.end])) <= 22


def test_the_hash_tells_prompts_apart() -> None:
    assert len({content_hash(*pair) for pair in (("", "ab"), ("a", "b"), ("ab", ""))}) == 3


def test_refusals(builtin_splits: Splits) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        list(segments(builtin_splits, "", "a\ud800", 50))
    with pytest.raises(TooLarge, match="instruction leaves"):
        list(segments(builtin_splits, "many words in a prompt " * 10, "text", 50))


@pytest.mark.parametrize(
    "text",
    [
        "aGVsbG8gd29ybGQ" * 20_000,
        "\n" * 200_000 + "x",
        pytest.param("e\u0301 " * 5_000, marks=pytest.mark.slow),
        pytest.param(" \t" * 50_000 + "the word is here", marks=pytest.mark.slow),
        pytest.param("。" * 5_000, marks=pytest.mark.slow),
    ],
    ids=["base64", "line breaks", "never safe", "spaces", "stops"],
)
def test_hostile_texts_take_linear_work(builtin_splits: Splits, text: str) -> None:
    found = list(segments(builtin_splits, "", text, 500))
    assert not text[: found[0].start].strip()
    assert not text[found[-1].end :].strip()
    assert all(not text[one.end : after.start].strip() for one, after in pairwise(found))
    assert all(len(one.ids) <= 500 for one in found)


def test_spaces_alone(builtin_splits: Splits) -> None:
    (only,) = segments(builtin_splits, "", " \n" * 5_000, 100)
    assert len(only.ids) <= 100
