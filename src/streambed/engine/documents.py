"""Texts as they are computed: under a prompt, tokenised, divided. Needs no thread and no weights."""

from collections.abc import Callable, Sequence
from typing import Literal

from streambed.engine.prefix_embeddings import Prefixes
from streambed.errors import CheckpointError, DeadlineExceeded, TooLarge
from streambed.limits import CHARACTERS_PER_TOKEN
from streambed.model.checkpoint import Checkpoint
from streambed.text.cuts import check_offsets, cut, token_ends
from streambed.text.incremental import IncrementalTokenizer, Splits
from streambed.text.instructions import Prompts, find_template, parse_template
from streambed.text.segments import Document, LongInput, Segment, check_room, segments
from streambed.text.sentences import sentence_ends
from streambed.text.strings import check_text
from streambed.text.tokenizer import SpecialTokens, Tokenizer
from streambed.vectors.shape import check_dimensions


class Documents:
    """How a checkpoint's texts are prompted, tokenised and divided. `max_tokens`: most tokens of one text, end token
    included."""

    def __init__(self, checkpoint: Checkpoint, special_tokens: SpecialTokens, instruction_template: str | None) -> None:
        """Raises CheckpointError, SettingsError."""
        pipeline, size = checkpoint.pipeline, checkpoint.config.vocab_size
        self.tokenizer = Tokenizer(checkpoint.tokenizer_file, special_tokens, pipeline.lower_case)
        self.tokenizer.check_named(pipeline.named_tokens)
        if self.tokenizer.size > size:
            raise CheckpointError(
                f"{checkpoint.tokenizer_file}: has token ids up to {self.tokenizer.size - 1}, "
                f"but the embedding table has {size} rows"
            )
        template = (
            find_template(pipeline.prompts) if instruction_template is None else parse_template(instruction_template)
        )
        self.prompts = Prompts(pipeline.prompts, pipeline.default_prompt_name, template)
        self.splits = Splits(self.tokenizer)
        self.max_tokens = checkpoint.window
        self._dimensions = checkpoint.config.hidden_size
        self.default_dimensions = pipeline.default_dimensions or self._dimensions

    @property
    def max_characters(self) -> int:
        """Texts with more characters are not even tokenised."""
        return self.max_tokens * CHARACTERS_PER_TOKEN

    def choose_dimensions(self, dimensions: int | None) -> int:
        """The dimensions that are asked for, or the default. Raises InvalidRequest where they are out of range."""
        check_dimensions(dimensions, self._dimensions)
        return dimensions or self.default_dimensions

    def divide(
        self,
        texts: Sequence[str],
        prompt: str = "",
        long_input: LongInput = "error",
        overlap: int = 0,
        expired: Callable[[], bool] = lambda: False,
    ) -> list[Document]:
        """Each text under a prompt as segments that fit in the window: one, unless it is long and to be merged.

        expired: whether to give up, asked after each segment.

        Raises:
            DeadlineExceeded: `expired` said so.
            InvalidRequest: a text has a lone surrogate.
            TooLarge: a text is too long, and to be refused. What is hopelessly long is refused before it costs anything.
        """
        limit, most = self.max_characters, self.max_tokens - 1
        for index, text in enumerate(texts):
            size = len(prompt) + len(text)
            if size > limit and (long_input == "error" or len(prompt) > limit):
                raise TooLarge(
                    f"text {index} has {size:,} characters with its prompt; more than {limit:,} never fit in a window of "
                    f"{self.max_tokens:,} tokens",
                    f"input[{index}]",
                )
        if len(prompt) > most:
            self.fit(self.tokenizer.encode(prompt))  # once, rather than once for each text
        # What is to be merged and longer than any window is tokenised segment by segment alone.
        fits = [len(prompt) + len(text) <= limit for text in texts]
        heads = [
            (prompt + text)[:limit] for text, whole in zip(texts, fits, strict=True) if whole or long_input != "merge"
        ]
        # One text alone does not wake the library's own thread pool.
        encoded = iter(self.tokenizer.encode_batch(heads) if len(heads) > 1 else map(self.tokenizer.encode, heads))
        before = len(self.tokenizer.encode(prompt)) if prompt else 0
        documents = []
        for index, (text, whole) in enumerate(zip(texts, fits, strict=True)):
            ids = next(encoded) if whole or long_input != "merge" else []
            if whole and len(ids) <= most:
                documents.append(Document([Segment(0, len(text), ids)], before))
            elif long_input == "merge":
                parts = []
                for segment in segments(self.splits, prompt, text, most, overlap):
                    parts.append(segment)
                    if expired():
                        raise DeadlineExceeded("the deadline passed while the text was divided")
                documents.append(Document(parts, before))
            else:
                cut = self.fit(ids, long_input == "truncate", None if len(texts) == 1 else index)
                end = self.tokenizer.end_of((prompt + text)[:limit], len(cut)) - len(prompt)
                documents.append(Document([Segment(0, end, cut)], before, truncated=True))
        return documents

    def fit(self, ids: list[int], truncate: bool = False, index: int | None = None) -> list[int]:
        """The ids if they fit in the window with the end token, or cut to fit. Raises TooLarge."""
        limit = self.max_tokens - 1
        if len(ids) <= limit:
            return ids
        if truncate:
            return ids[:limit]
        which = "the text" if index is None else f"text {index}"
        raise TooLarge(
            f"{which} has {len(ids) + 1} tokens with its end token; the limit is {self.max_tokens}",
            "input" if index is None else f"input[{index}]",
        )

    def places(self, text: str, every: Literal["sentence"] | int) -> list[int]:
        """Offsets at the ends of sentences, or after each `every` tokens. Raises InvalidRequest, TooLarge."""
        self._check_length(text, "")
        return sentence_ends(text) if every == "sentence" else token_ends(self.splits, text, every)

    def prefixes(self, text: str, offsets: Sequence[int], prompt: str = "") -> Prefixes:
        """The beginnings of a text that end at `offsets`, tokenised.

        Raises:
            InvalidRequest: a lone surrogate, or offsets that do not rise within the text. TooLarge.
        """
        self._check_length(text, prompt)
        check_offsets(offsets, len(text))
        return Prefixes(*cut(self.splits, prompt, text, offsets, self.max_tokens - 1))

    def grow(self, prompt: str, segmented: bool) -> IncrementalTokenizer:
        """The tokens of a text that is still to come. Raises TooLarge where the prompt leaves no room."""
        tokenizer = IncrementalTokenizer(self.splits, prompt)
        tokenizer.set("", self.max_tokens - 1)
        if segmented:
            check_room(tokenizer.num_tokens, self.max_tokens - 1)
        return tokenizer

    def outgrow(self, prompt: str, text: str) -> tuple[list[Segment], int]:
        """The segments of a growing text that have ended, and where the one that goes on begins."""
        limit = self.max_tokens - 1
        ended: list[Segment] = []
        stop = len(text.rstrip())
        for part in segments(self.splits, prompt, text, limit):
            # The last one goes on, unless more spaces follow it than fit.
            if part.end >= stop and len(self.tokenizer.encode(prompt + text[part.start :])) <= limit:
                return ended, part.start
            if not text[part.start : part.end].isspace():
                ended.append(part)
        return ended, len(text)

    def _check_length(self, text: str, prompt: str) -> None:
        if len(prompt) + len(text) > self.max_characters:
            self.divide([text], prompt)  # refuses it
        check_text(text)
