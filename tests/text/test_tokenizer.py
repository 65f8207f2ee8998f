from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streambed.errors import CheckpointError, InvalidRequest
from streambed.text.tokenizer import SpecialTokens, Tokenizer, check_text
from tests.checkpoints import BUILTIN, VOCABULARY, load_engine

FILE = BUILTIN / "tokenizer.json"
END = "<|endoftext|>"
TEXTS = [
    "",
    "a",
    "Streambed reads while you write.",
    "  two  spaces\n\n\tand\r\nlines  ",
    "naïve café, Ångström, 한국어, 日本語, العربية, हिन्दी, ไทย",
    "👩‍👩‍👧‍👦 🇺🇳 e\u0301 \u200b \ufeff \x00 \uffff \U0010ffff",
    "1234567890 3.14e-10",
    f"{END} <think> <|im_start|>user",
    "word " * 500,
]
Definition = dict[str, Any]
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
SPECIAL = {"SpecialToken": {"id": END, "type_id": 0}}


@pytest.fixture(scope="module")
def definition() -> Definition:
    parsed: Definition = json.loads(FILE.read_bytes())
    return parsed


@pytest.fixture
def changed(definition: Definition, tmp_path: Path) -> Callable[..., Path]:
    """Writes the built-in model's tokenizer with other top-level keys."""

    def write(**keys: object) -> Path:
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition | keys))
        return tmp_path / "tokenizer.json"

    return write


def template(definition: Definition, *pieces: Definition) -> Definition:
    processors = definition["post_processor"]["processors"]
    return {"type": "Sequence", "processors": [processors[0], {**processors[1], "single": list(pieces)}]}


@pytest.fixture(scope="module", params=["text", "parse"])
def mode(request: pytest.FixtureRequest) -> SpecialTokens:
    chosen: SpecialTokens = request.param
    return chosen


@pytest.fixture(scope="module")
def builtin(mode: SpecialTokens) -> Tokenizer:
    return Tokenizer(FILE, mode)


@pytest.fixture(scope="module")
def qwen(mode: SpecialTokens, qwen_tokenizer_file: Path) -> Tokenizer:
    return Tokenizer(qwen_tokenizer_file, mode)


def test_end_token_of_the_builtin_model(builtin: Tokenizer) -> None:
    assert builtin.end_id == VOCABULARY - 1
    assert builtin.size == VOCABULARY


def test_end_token_of_qwen(qwen: Tokenizer) -> None:
    assert qwen.end_id == 151_643
    assert qwen.size == 151_669


def test_end_token_is_never_added_to_a_text(builtin: Tokenizer, qwen: Tokenizer) -> None:
    for tokenizer in (builtin, qwen):
        assert tokenizer.encode("") == []
        assert tokenizer.end_id not in tokenizer.encode("a text")


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([TEXT], "adds 0 tokens to a text; one end token is expected"),
        ([TEXT, SPECIAL, SPECIAL], "adds 2 tokens to a text; one end token is expected"),
        ([SPECIAL, TEXT, SPECIAL], "adds 2 tokens to a text; one end token is expected"),
        ([SPECIAL, TEXT], "puts a token before the text; one after it is expected"),
    ],
    ids=["no end", "two ends", "begin and end", "begin"],
)
def test_other_post_processors_are_refused(
    changed: Callable[..., Path], definition: Definition, pieces: list[Definition], says: str
) -> None:
    file = changed(post_processor=template(definition, *pieces))
    with pytest.raises(CheckpointError, match=says) as caught:
        Tokenizer(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_no_post_processor_is_refused(changed: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="adds 0 tokens"):
        Tokenizer(changed(post_processor=None))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"\x00" * 100,
        b"\xff\xfe{",
        b"[" * 100_000,
        FILE.read_bytes()[:100_000],
        FILE.read_bytes()[:-1],
        FILE.read_bytes().replace(b'"BPE"', b'"BPX"', 1),
        FILE.read_bytes().replace(b'"NFC"', b'"NFX"', 1),
        b"\xef\xbb\xbf" + FILE.read_bytes(),
    ],
    ids=["empty", "open", "object", "list", "null", "zeros", "utf16", "deep", "half", "cut", "model", "norm", "bom"],
)
def test_broken_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not a usable tokenizer: \S") as caught:
        Tokenizer(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value).splitlines()) == 1


def without_unknown(kind: str, token: str) -> Definition:
    """A model of one token, with no token for all that it does not know."""
    known = {"type": kind, "vocab": {token: 0}, "unk_token": "[UNK]"}
    if kind == "WordPiece":
        known |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    if kind == "Unigram":
        known = {"type": kind, "vocab": [[token, 0.0]], "unk_id": None}
    return {"model": known, "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "decoder": None}


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram"])
def test_models_without_an_unknown_token_are_refused_in_one_line(changed: Callable[..., Path], kind: str) -> None:
    file = changed(**without_unknown(kind, "b"))
    with pytest.raises(CheckpointError, match=r"not a usable tokenizer: .*(\[UNK\]|unk_id)") as caught:
        Tokenizer(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram"])
def test_models_without_an_unknown_token_that_know_the_trial_text(changed: Callable[..., Path], kind: str) -> None:
    with pytest.raises((CheckpointError, InvalidRequest)):
        Tokenizer(changed(**without_unknown(kind, "a"))).encode("b")


def test_word_level_model_with_its_unknown_token(changed: Callable[..., Path]) -> None:
    keys = without_unknown("WordLevel", "a")
    keys["model"]["vocab"]["[UNK]"] = 1
    with pytest.raises(CheckpointError, match="a WordLevel model; only BPE is served"):
        Tokenizer(changed(**keys))


@pytest.mark.parametrize(
    "change",
    [
        lambda definition: {"model": definition["model"] | {"vocab": {"b": 0}, "merges": [["two\nlines", "b"]]}},
        lambda definition: {
            "model": definition["model"] | {"vocab": {"b": 0}, "merges": [], "unk_token": "two\nlines"}
        },
        lambda definition: {"normalizer": {"type": "Replace", "pattern": {"Regex": "(two\nlines"}, "content": ""}},
    ],
    ids=["merge", "unknown token", "pattern"],
)
def test_names_of_two_lines_are_told_in_one_line(
    changed: Callable[..., Path], definition: Definition, change: Callable[[Definition], Definition]
) -> None:
    file = changed(**change(definition))
    with pytest.raises(CheckpointError, match=r"not a usable tokenizer: \S") as caught:
        Tokenizer(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"{}"], ids=["absent", "broken"])
def test_directories_of_two_lines_are_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "two\nlines" / "tokenizer.json"
    file.parent.mkdir()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer(file)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda definition: {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        lambda definition: {"post_processor": template(definition, {"Sequence": {"id": "B", "type_id": 0}}, SPECIAL)},
    ],
    ids=["charsmap", "second sequence"],
)
def test_files_that_make_the_library_panic_are_refused_in_one_line(
    changed: Callable[..., Path], definition: Definition, change: Callable[[Definition], Definition]
) -> None:
    file = changed(**change(definition))
    with pytest.raises(CheckpointError, match=r"not a usable tokenizer: \S") as caught:
        Tokenizer(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value).splitlines()) == 1


def with_end(definition: Definition, token: int) -> Definition:
    """The post-processor, with another id for its end token."""
    processor = copy.deepcopy(definition["post_processor"])
    [end] = processor["processors"][1]["special_tokens"].values()
    end["ids"] = [token]
    return {"post_processor": processor}


@pytest.mark.parametrize(
    ("end", "size"),
    [(0, VOCABULARY), (VOCABULARY - 1, VOCABULARY), (VOCABULARY, VOCABULARY + 1), (99_999, 100_000)],
)
def test_size_counts_the_end_token(
    changed: Callable[..., Path], definition: Definition, mode: SpecialTokens, end: int, size: int
) -> None:
    """The post-processor has ids of its own, which need not be in the vocabulary."""
    tokenizer = Tokenizer(changed(**with_end(definition, end)), mode)
    assert tokenizer.end_id == end
    assert tokenizer.size == size


@pytest.mark.parametrize("end", [VOCABULARY, 99_999])
def test_engine_refuses_an_end_token_beyond_the_embedding_table(
    tiny_checkpoint: Path, tmp_path: Path, changed: Callable[..., Path], definition: Definition, end: int
) -> None:
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "case"))
    file = changed(**with_end(definition, end)).replace(directory / "tokenizer.json")
    with pytest.raises(CheckpointError, match=f"has token ids up to {end}, .* has {VOCABULARY} rows") as caught:
        load_engine(directory).close()
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_unreadable_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: ") as caught:
        Tokenizer(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_truncation_and_padding_of_the_file_are_ignored(builtin: Tokenizer, changed: Callable[..., Path]) -> None:
    file = changed(
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 16},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": VOCABULARY - 1,
            "pad_type_id": 0,
            "pad_token": END,
        },
    )
    tokenizer = Tokenizer(file, builtin.special_tokens)
    assert tokenizer.end_id == builtin.end_id
    assert [tokenizer.encode(text) for text in TEXTS] == [builtin.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == builtin.encode_batch(TEXTS)


def test_digest_is_of_the_file(changed: Callable[..., Path]) -> None:
    digests = {Tokenizer(FILE).digest, Tokenizer(FILE, "parse").digest}
    assert len(digests) == 1
    assert Tokenizer(changed(truncation=None)).digest not in digests, "other spaces: another file"


def test_special_tokens_as_text(qwen_tokenizer_file: Path) -> None:
    for tokenizer in (Tokenizer(FILE), Tokenizer(qwen_tokenizer_file)):
        ids = tokenizer.encode(f"a{END}b")
        assert tokenizer.special_tokens == "text"
        assert tokenizer.end_id not in ids
        assert "".join(tokenizer.decode(ids)) == f"a{END}b"
        assert len(tokenizer.encode(END)) > 1
    assert 151_644 not in tokenizer.encode("<|im_start|>user")


def test_special_tokens_parsed(qwen_tokenizer_file: Path) -> None:
    for tokenizer in (Tokenizer(FILE, "parse"), Tokenizer(qwen_tokenizer_file, "parse")):
        a, b = tokenizer.encode("a"), tokenizer.encode("b")
        assert tokenizer.encode(f"a{END}b") == [*a, tokenizer.end_id, *b]
        assert tokenizer.encode(END * 2) == [tokenizer.end_id] * 2
    assert tokenizer.encode("<|im_start|>")[0] == 151_644


@pytest.mark.parametrize(
    ("text", "token"), [("<think>", 151_667), ("</think>", 151_668), ("<tool_call>", 151_657), ("<|fim_pad|>", 151_662)]
)
def test_added_tokens_that_are_not_special_stay_themselves(qwen: Tokenizer, text: str, token: int) -> None:
    assert qwen.encode(text) == [token]
    assert qwen.encode(f"a{text}b") == [*qwen.encode("a"), token, *qwen.encode("b")]


def test_batch_equals_one_by_one(builtin: Tokenizer, qwen: Tokenizer) -> None:
    for tokenizer in (builtin, qwen):
        assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]
        assert tokenizer.encode_batch([]) == []


def test_decode_gives_one_piece_for_each_id(builtin: Tokenizer, qwen: Tokenizer) -> None:
    for tokenizer in (builtin, qwen):
        for text in TEXTS:
            ids = tokenizer.encode(text)
            assert len(tokenizer.decode(ids)) == len(ids)
        ascii_text = "Streambed reads, while you write."
        assert "".join(tokenizer.decode(tokenizer.encode(ascii_text))) == ascii_text
        assert tokenizer.decode([tokenizer.end_id]) == [END]
        assert tokenizer.decode([]) == []
    pieces = qwen.decode(qwen.encode("\U0010ffff"))
    assert len(pieces) > 1
    assert set("".join(pieces)) == {"\ufffd"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("\ud800", 0),
        ("ab\udfff", 2),
        ("é\ud83d\ude00", 1),
        ("日本\udc80語", 2),
        ("\U0001f600\ud800", 1),
        ("a" * 10_000 + "\udbff", 10_000),
    ],
)
def test_lone_surrogates_are_refused(builtin: Tokenizer, text: str, place: int) -> None:
    for refuse in (check_text, builtin.encode, lambda bad: builtin.encode_batch(["good", bad])):
        with pytest.raises(InvalidRequest, match=f"lone surrogate at character {place}$"):
            refuse(text)


@pytest.mark.parametrize("text", TEXTS)
def test_all_other_texts_pass(text: str) -> None:
    check_text(text)
