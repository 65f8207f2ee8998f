"""Qwen's tokenizer pipeline with a vocabulary of its own: NFC, Qwen's split pattern, byte-level BPE, the end token.

A word at the start of a text is another token than the same word after a space. Single words and short queries are made
of the former, so the training text is shown a word a line, too: that teaches the vocabulary the bare words.
"""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from training.dataset import Dataset

END = "<|endoftext|>"
SIZE = 20_800  # the end token included
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def pipeline() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _text(data: Dataset) -> Iterator[str]:
    examples = (*data.english, *data.words)
    for number, index in enumerate(examples):
        text = data.texts[index]
        yield text if number % 2 else text.lower()
        yield text.lower().replace(" ", "\n")
        if number % 12 == 0:
            yield text.upper() if number % 24 else text.title()
    for number, (text, _) in enumerate(data.foreign):
        if number % 2 or (not text.isascii() and max(text) > "\u2fff"):
            yield text


def train_tokenizer(data: Dataset, file: Path) -> Tokenizer:
    """Train the vocabulary and write tokenizer.json."""
    tokenizer = pipeline()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 1, special_tokens=[], initial_alphabet=alphabet, min_frequency=4, show_progress=False
    )
    tokenizer.train_from_iterator(_text(data), trainer)
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    end = tokenizer.token_to_id(END)
    template = processors.TemplateProcessing(single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, end)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    tokenizer.save(str(file))
    return tokenizer
