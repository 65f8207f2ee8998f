"""The checkpoint's tokenizer: token ids of a text, the end token, and the policy for special tokens in text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tokenizers

from streambed.errors import CheckpointError, InvalidRequest
from streambed.text.strings import check_text as check_text

SpecialTokens = Literal["text", "parse"]
"""What `<|endoftext|>` and its like mean inside a text: plain characters (`text`), or themselves (`parse`)."""


class Tokenizer:
    """Token ids of whole texts, by the `tokenizers` library. Threads may share it."""

    def __init__(self, file: Path, special_tokens: SpecialTokens = "text", lower_case: bool = False) -> None:
        """Loads `tokenizer.json`. lower_case: texts are made lower-case before all else, as sentence-transformers does it.

        Raises CheckpointError where the file is broken or sets no end token.
        """
        self._file = file
        try:
            definition = file.read_bytes()
            if lower_case:
                definition = _lower_case(definition)
            self.backend = tokenizers.Tokenizer.from_buffer(definition)
            self.backend.no_truncation()
            self.backend.no_padding()
            self.backend.encode_special_tokens = special_tokens == "text"
            ends = self.backend.encode("", add_special_tokens=True).ids
            around = self.backend.encode("a", add_special_tokens=True).ids
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # bare Exception for a broken file, and Rust panics, which are no Exception
            raise CheckpointError(f"{file}: not a usable tokenizer: {' '.join(str(error).split())}") from error
        self.definition: dict[str, Any] = json.loads(definition)
        if self.definition["model"].get("type", "BPE") != "BPE":
            # Others raise on characters that they do not know; BPE over bytes knows them all.
            raise CheckpointError(f"{file}: a {self.definition['model']['type']} model; only BPE is served")
        self.definition["model"].pop("merges", None)  # the larger half, and only the library needs it
        self.digest = hashlib.sha256(definition).hexdigest()
        self.special_tokens: SpecialTokens = special_tokens
        if len(ends) != 1:
            raise CheckpointError(
                f"{file}: its post-processor adds {len(ends)} tokens to a text; one end token is expected"
            )
        self.end_id: int = ends[0]
        if around[-1] != self.end_id:
            raise CheckpointError(f"{file}: its post-processor puts a token before the text; one after it is expected")
        self.size = 1 + max(self.end_id, *self.backend.get_vocab(with_added_tokens=True).values())
        """One more than the largest token id."""

    def check_named(self, tokens: Mapping[str, Mapping[str, Any]]) -> None:
        """Raises CheckpointError for a token that the files beside this one name, and that is not the same one here.

        transformers would add it to the tokenizer, so that texts with it become other tokens there.
        """
        here = {token["content"]: token for token in self.definition.get("added_tokens") or []}
        for content, about in tokens.items():
            known = here.get(content)
            differs = known and any(known[flag] != about.get(flag, known[flag]) for flag in _TOKEN_FLAGS)
            if known is None or differs:
                raise CheckpointError(
                    f"{self._file}: the token {content[:120]!r}, which the files beside it name, is "
                    f"{'matched otherwise' if known else 'not among its added tokens'}; save the tokenizer as a whole"
                )

    def encode(self, text: str) -> list[int]:
        """Token ids without the end token. Raises InvalidRequest on lone surrogates."""
        check_text(text)
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        for index, text in enumerate(texts):
            try:
                check_text(text, f"text {index}")
            except InvalidRequest as error:
                raise InvalidRequest(error.message, f"input[{index}]") from None
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def end_of(self, text: str, count: int) -> int:
        """Characters of `text` that its first `count` tokens reach, which is 0 for none."""
        return max((end for _, end in self.backend.encode(text, add_special_tokens=False).offsets[:count]), default=0)

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The piece of text that each token stands for; a token of broken UTF-8 gives replacement characters."""
        return [self.backend.decode([token], skip_special_tokens=False) for token in ids]


_TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def _lower_case(definition: bytes) -> bytes:
    """The same tokenizer behind a step that makes texts lower-case, unless it has one."""
    whole = json.loads(definition)
    before = whole.get("normalizer")
    steps = [] if before is None else before["normalizers"] if before["type"] == "Sequence" else [before]
    if not any(step["type"] == "Lowercase" for step in steps):
        whole["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
    return json.dumps(whole, ensure_ascii=False).encode()
