"""Streamed tokens equal one-shot tokens: whatever the chunks, the edits, the script, the vocabulary and the mode."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed.errors import InvalidRequest, TooLarge
from streambed.text.incremental import IncrementalTokenizer, Splits, _is_clean
from streambed.text.tokenizer import Tokenizer
from tests.checkpoints import BUILTIN, VOCABULARY

PIECES = (  # noqa: SIM905, RUF005 - a list of these is long and says no more
    "hello| world|The| the|I'll|'s|'|don't|\u017f|  |   |\t|\n|\r\n| \n |\u3000|\u00a0|\x1c|1|23|٣|Ⅷ|!!|...|—|====| =|"
    "中文|没有标点的中文字符串|哈哈哈|日本語の|カタカナ|ไทย|ภาษาไทยเขียนติดกัน|한국어|\u1112\u1161\u11ab|\u11ab|हिन्दी|क्|é|e\u0301|\u0301|"
    "\u0323\u0307|\u09c7\u09be|\u09be|🙂|👩\u200d👩\u200d👧|\U0001d11e|\ua7d2|QUJDREVGRw|aaaaaaaa|Donaudampfschiff|العربية|"
    "עברית|Ελληνικά|кириллица|<|<thi|<think>|</think>|<tool_call>"
).split("|") + ["<|im_", "<|im_start|>", "<|im_end|>", "<|fim_pad|>", "<|endoftext|>", "|>", ""]
text = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
)
letters = st.text(alphabet=st.sampled_from("中文字符串没有标点ภาษาไทยabcXYZaaa"), max_size=80)


@st.composite
def edits(draw: st.DrawFn) -> list[tuple[str, float, float, str]]:
    """Appends mostly, replaces and sets now and then; places are shares of the text's length."""
    piece = draw(st.sampled_from([text, text, letters]))
    kind = st.sampled_from(["append"] * 8 + ["replace"] * 3 + ["set", "fork"])
    share = st.floats(0, 1)
    return draw(st.lists(st.tuples(kind, share, share, piece), max_size=30))


def check(splits: Splits, prompt: str, changes: list[tuple[str, float, float, str]]) -> None:
    stream, whole = IncrementalTokenizer(splits, prompt), ""
    for kind, first, second, piece in changes:
        start, end = sorted((round(first * len(whole)), round(second * len(whole))))
        if kind == "append":
            stream.append(piece)
            whole += piece
        elif kind == "replace":
            stream.replace(start, end, piece)
            whole = whole[:start] + piece + whole[end:]
        elif kind == "set":
            whole = whole[:start] + piece
            stream.set(whole)
        else:
            original, stream = stream, stream.fork()
            original.append("something else <|im_")
        assert stream.text == whole
        assert stream.length == len(whole)
        assert stream.tokens == splits.tokenizer.encode(prompt + whole)
        assert stream.num_tokens == len(stream.tokens)


PROMPTS = ["", "Instruct: Find it\nQuery:"]


@settings(max_examples=150)
@given(changes=edits(), prompt=st.sampled_from(PROMPTS))
def test_any_edits_qwen(qwen_splits: Splits, changes: list[tuple[str, float, float, str]], prompt: str) -> None:
    assert qwen_splits.exact
    check(qwen_splits, prompt, changes)


@settings(max_examples=150)
@given(changes=edits(), prompt=st.sampled_from(PROMPTS))
def test_any_edits_builtin(builtin_splits: Splits, changes: list[tuple[str, float, float, str]], prompt: str) -> None:
    assert builtin_splits.exact
    check(builtin_splits, prompt, changes)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(changes=edits(), prompt=st.sampled_from(PROMPTS))
def test_many_edits_qwen(qwen_splits: Splits, changes: list[tuple[str, float, float, str]], prompt: str) -> None:
    check(qwen_splits, prompt, changes)


SCRIPTS = {
    "english": "The quick brown fox doesn't jump over 12 lazy dogs; it's 3:45 p.m. already! " * 3,
    "chinese": "我们今天讨论实时文本嵌入的问题因为这段文字没有任何标点符号所以很长很长" * 3,
    "thai": "ภาษาไทยเขียนติดกันไม่มีวรรคตอนเลยแม้แต่น้อย" * 4,
    "korean": "한국어 문장은 띄어쓰기가 있습니다. 그래도 시험합니다. " * 2,
    "japanese": "これは日本語の文章です。カタカナと漢字も含みます。" * 3,
    "hindi": "हिन्दी में लिखा हुआ एक वाक्य जिसमें मात्राएँ हैं। " * 2,
    "arabic": "هذه جملة باللغة العربية للاختبار. " * 2,
    "decomposed": "Cafe\u0301 nai\u0308ve \u1112\u1161\u11ab\u1100\u1173\u11af " * 3,
    "emoji": "👩\u200d👩\u200d👧 ok 🙂🙂 🇩🇪🇫🇷 done " * 3,
    "code": "def f(x):\n    return {'a': x + 1}  # <think> no </think>\n\n" * 3,
    "base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5eg==" * 3,
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_typed_character_by_character(qwen_splits: Splits, script: str) -> None:
    stream = IncrementalTokenizer(qwen_splits)
    for end, character in enumerate(SCRIPTS[script], 1):
        stream.append(character)
        assert stream.tokens == qwen_splits.tokenizer.encode(SCRIPTS[script][:end])


def test_clean_splits_are_clean(builtin_splits: Splits) -> None:
    """The class table against the tokenizer itself: all strings of up to 4 symbols, split wherever the table allows."""
    pre = builtin_splits.tokenizer.backend.pre_tokenizer

    def pretokens(string: str) -> list[str]:
        return [piece for piece, _ in pre.pre_tokenize_str(string)]

    checked = 0
    for size in (2, 3, 4):
        for symbols in itertools.product("al1!' \t\n\u0301", repeat=size):
            string = "".join(symbols)
            for at in range(1, size):
                if _is_clean(string[at - 1], string[at]):
                    checked += 1
                    assert pretokens(string[:at]) + pretokens(string[at:]) == pretokens(string), (string, at)
    assert checked > 5_000


@pytest.mark.parametrize(
    ("piece", "most"),
    [("没有标点的中文字符串", 32), ("ภาษาไทยเขียนติดกัน", 32), ("QUJDREVGRwabcdef", 32), ("Aa", 49), (" word", 4)],
)
def test_the_tail_is_bounded(qwen_splits: Splits, piece: str, most: int) -> None:
    stream = IncrementalTokenizer(qwen_splits)
    for character in piece * 60:
        stream.append(character)
        assert stream.num_tokens - stream.num_stable <= most


def test_a_long_run_of_letters_in_one_go(qwen_splits: Splits) -> None:
    stream = IncrementalTokenizer(qwen_splits)
    stream.append("　　" + "没有标点的中文字符串" * 500)
    assert stream.num_stable > 2000
    assert stream.tokens == qwen_splits.tokenizer.encode(stream.text)


def test_an_added_token_may_be_longer_than_the_run(tmp_path: Path) -> None:
    """The ancestor rule must not cut what may still become an added token."""
    definition = json.loads((BUILTIN / "tokenizer.json").read_bytes())
    name = "<" + "abcdefghij" * 8 + ">"
    definition["added_tokens"].append(
        definition["added_tokens"][0] | {"id": VOCABULARY, "content": name, "special": False}
    )
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(definition))
    splits = Splits(Tokenizer(file))
    assert splits.exact
    stream = IncrementalTokenizer(splits)
    for end, character in enumerate(name, 1):
        stream.append(character)
        assert stream.tokens == splits.tokenizer.encode(name[:end])
    assert stream.tokens == [VOCABULARY]
    stream.replace(len(name) - 1, len(name), "!")
    assert stream.tokens == splits.tokenizer.encode(stream.text)


def other_pipelines() -> list[dict[str, object]]:
    definition = json.loads((BUILTIN / "tokenizer.json").read_bytes())
    split, byte_level = definition["pre_tokenizer"]["pretokenizers"]
    split = split | {"pattern": {"Regex": r"\S+|\s+"}}
    token = definition["added_tokens"][0]
    return [
        definition | {"normalizer": None},
        definition | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}},
        definition | {"model": definition["model"] | {"ignore_merges": True}},
        definition | {"added_tokens": [token, token | {"id": VOCABULARY, "content": "x", "special": False}]},
        definition
        | {"added_tokens": [token, token | {"id": VOCABULARY, "content": "[A]", "special": False, "lstrip": True}]},
    ]


@pytest.fixture(scope="module", params=other_pipelines(), ids=["normalizer", "split", "merges", "word", "spaces"])
def other_splits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Splits:
    file = tmp_path_factory.mktemp("other") / "tokenizer.json"
    file.write_text(json.dumps(request.param))
    return Splits(Tokenizer(file))


@settings(max_examples=6)
@given(changes=edits())
def test_unknown_pipelines_fall_back(other_splits: Splits, changes: list[tuple[str, float, float, str]]) -> None:
    assert not other_splits.exact
    check(other_splits, "", changes)


def test_an_edit_resumes_near_its_place(qwen_splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = IncrementalTokenizer(qwen_splits)
    stream.append("The quick brown fox. " * 500)
    encoded = 0

    class Counting:
        def __init__(self, backend: object) -> None:
            self._backend = backend

        def encode(self, piece: str, **options: object) -> object:
            nonlocal encoded
            encoded += len(piece)
            return self._backend.encode(piece, **options)  # type: ignore[attr-defined]

    monkeypatch.setattr(qwen_splits.tokenizer, "backend", Counting(qwen_splits.tokenizer.backend))
    stream.replace(10_400, 10_405, "slow")
    count = stream.num_tokens
    monkeypatch.undo()
    assert count == len(qwen_splits.tokenizer.encode(stream.text))
    assert encoded < 2_000


def test_refusals_change_nothing(builtin_splits: Splits) -> None:
    stream = IncrementalTokenizer(builtin_splits, "Instruct: x\nQuery:")
    stream.append("some text with a few words, 没有标点, and <|im_")
    text, tokens = stream.text, stream.tokens
    for start, end in ((-1, 0), (0, len(text) + 1), (5, 4), (len(text) + 1, len(text) + 1)):
        with pytest.raises(InvalidRequest, match="not within"):
            stream.replace(start, end, "x")
    with pytest.raises(InvalidRequest, match="surrogate"):
        stream.append("ok \ud800")
    for change in (
        lambda: stream.append(" more words" * 50, len(tokens) + 3),
        lambda: stream.append(" word" * 100_000, len(tokens) + 3),
        lambda: stream.replace(0, 4, "more words " * 50, len(tokens)),
        lambda: stream.set("quite another text " * 50, len(tokens)),
    ):
        with pytest.raises(TooLarge, match=r"would have (more|[\d,]+) tokens; the limit is [\d,]+"):
            change()
        assert (stream.text, stream.tokens) == (text, tokens)
    stream.append(" end")
    assert stream.tokens == builtin_splits.tokenizer.encode("Instruct: x\nQuery:" + text + " end")


@settings(max_examples=150)
@given(changes=edits(), data=st.data())
def test_limits_roll_back_exactly(
    builtin_splits: Splits, changes: list[tuple[str, float, float, str]], data: st.DataObject
) -> None:
    """With a limit in force, what is refused leaves no trace, and what follows is exact."""
    stream, whole = IncrementalTokenizer(builtin_splits), ""
    limit = data.draw(st.integers(0, 60))
    for _, first, second, piece in changes:
        start, end = sorted((round(first * len(whole)), round(second * len(whole))))
        changed = whole[:start] + piece + whole[end:]
        if len(builtin_splits.tokenizer.encode(changed)) > limit:
            with pytest.raises(TooLarge):
                stream.replace(start, end, piece, limit)
        else:
            stream.replace(start, end, piece, limit)
            whole = changed
        assert stream.text == whole
        assert stream.tokens == builtin_splits.tokenizer.encode(whole)
