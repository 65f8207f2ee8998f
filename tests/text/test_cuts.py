"""Where beginnings of a text end, and that their tokens are told as those of the text itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed import InvalidRequest, TooLarge
from streambed.text.cuts import check_offsets, cut, token_ends
from streambed.text.incremental import Splits
from streambed.text.sentences import sentence_ends

PIECES = [
    "the",
    " fox",
    "ab",
    "c",
    " 12",
    "!",
    ".",
    "\n",
    "\n\n",
    " ",
    "中文",
    "ไทย",
    "e",
    "\u0301",
    "🙂",
    "<|endoftext|>",
    "'s",
]
texts = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@pytest.mark.parametrize(
    ("text", "beginnings"),
    [
        ("", []),
        ("no end", ["no end"]),
        ("One. Two.", ["One.", "One. Two."]),
        ("Pi is 3.14, e is 2.72. Right?", ["Pi is 3.14, e is 2.72.", "Pi is 3.14, e is 2.72. Right?"]),
        ('"Stop!" he said.', ['"Stop!"', '"Stop!" he said.']),
        ("今天。明天！", ["今天。", "今天。明天！"]),
        ("title\n\nbody", ["title\n\n", "title\n\nbody"]),
        ("A line.\r\nAnother.", ["A line.\r\n", "A line.\r\nAnother."]),
        ("\n\n a", ["\n\n a"]),
        ("One.   ", ["One.", "One.   "]),
        ("Wait... what? ok", ["Wait...", "Wait... what?", "Wait... what? ok"]),
    ],
)
def test_sentence_ends(text: str, beginnings: list[str]) -> None:
    assert [text[:end] for end in sentence_ends(text)] == beginnings


@given(text=texts)
def test_sentence_ends_rise_to_the_end(text: str) -> None:
    ends = sentence_ends(text)
    check_offsets(ends, len(text))
    assert ends[-1:] == ([len(text)] if text else [])


@given(text=texts, every=st.integers(1, 9))
def test_token_ends_are_so_many_tokens_apart(builtin_splits: Splits, text: str, every: int) -> None:
    ends = token_ends(builtin_splits, text, every)
    check_offsets(ends, len(text))
    assert ends[-1:] == ([len(text)] if text else [])
    count = len(builtin_splits.tokenizer.encode(text))
    assert len(ends) <= count // every + 1


@pytest.mark.parametrize("every", [0, -3])
def test_every_is_positive(builtin_splits: Splits, every: int) -> None:
    with pytest.raises(InvalidRequest, match="at least 1"):
        token_ends(builtin_splits, "a", every)


@pytest.mark.parametrize("offsets", [[0], [-1], [2, 2], [3, 1], [6], [1, 6]])
def test_offsets_rise_within_the_text(offsets: list[int]) -> None:
    with pytest.raises(InvalidRequest, match="offsets must rise"):
        check_offsets(offsets, 5)
    check_offsets([1, 2, 5], 5)


@given(text=texts, shares=st.lists(st.floats(0, 1), max_size=8), prompt=st.sampled_from(["", "Instruct: x\nQuery:"]))
def test_a_cut_has_the_tokens_of_its_beginning(
    builtin_splits: Splits, text: str, shares: list[float], prompt: str
) -> None:
    offsets = sorted({max(1, round(share * len(text))) for share in shares}) if text else []
    ids, cuts = cut(builtin_splits, prompt, text, offsets, 10_000)
    tokenizer = builtin_splits.tokenizer
    assert [one.offset for one in cuts] == offsets
    assert ids == tokenizer.encode(prompt + text[: offsets[-1] if offsets else 0])
    for one in cuts:
        own = ids[: one.shared] + one.tail
        assert own == tokenizer.encode(prompt + text[: one.offset])
        assert len(own) == one.num_tokens
    if cuts:
        assert not cuts[-1].tail


def test_too_long_is_refused(builtin_splits: Splits) -> None:
    with pytest.raises(TooLarge):
        cut(builtin_splits, "", "one two three four five six", [3, 27], 4)


def test_many_line_breaks_cost_little() -> None:
    """Every one of them was looked at from every other once."""
    text = "a" + "\n" * 200_000 + "b" + "\n " * 100_000 + "c"
    assert [text[end - 1 : end + 1] for end in sentence_ends(text)] == ["\nb", "\n ", "c"]
