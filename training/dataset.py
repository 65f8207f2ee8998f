"""Texts to a data set: what is trained on, what is held out, and the rule that keeps the two apart.

The rule: a text is dropped from training if it, or a sentence of it, equals a text of the evaluation once case,
accents' encoding and punctuation are set aside (`canonical`). That covers the sets in `evaluation/`, the words of
WordSim-353 and SimLex-999, the Lee documents, the glosses and questions of held-out synsets, the held-out translations,
and all of the held-out sources.
"""

import hashlib
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.fetch import LANGUAGES
from training.sources import (
    SOURCES,
    Synset,
    Translation,
    clean,
    read_text,
    sentences,
    synset_texts,
    synsets,
    translated_table,
    translations,
)

EVALUATION = Path(__file__).with_name("evaluation")
HELD_SYNSETS = 5_000
HELD_TRANSLATIONS = 30  # one English original in so many
VALIDATION = 400  # one English text in so many, for the curve that training shows
TRANSLATIONS = 60_000  # at most so many a language
PREFIX_SHARE = 0.1

_APART = re.compile(r"[\W_]+")


def canonical(text: str) -> str:
    """What two texts have in common if they differ in case, compatibility forms, spaces or punctuation alone."""
    return _APART.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _bucket(text: str, buckets: int) -> int:
    return int.from_bytes(hashlib.blake2b(canonical(text).encode(), digest_size=8).digest(), "big") % buckets


def _draw(seed: str) -> random.Random:
    """Random choices of one source or text, so that a change of another leaves them as they were."""
    return random.Random(seed)


def similarity_words(packages: Path) -> dict[str, list[tuple[str, str, float]]]:
    """WordSim-353 and SimLex-999 as gensim ships them: (word, word, people's score)."""
    found = {}
    for name, file in (("WordSim-353", "wordsim353.tsv"), ("SimLex-999", "simlex999.txt")):
        rows = [
            line.split("\t") for line in read_text(packages / "pypi/gensim/gensim/test/test_data" / file).splitlines()
        ]
        scored = [
            row
            for row in rows
            if len(row) >= 3 and not row[0].startswith("#") and re.match(r"^[\d.]+$", row[2].strip())
        ]
        found[name] = [(row[0], row[1], float(row[2])) for row in scored]
    return found


def forbidden_words(packages: Path) -> set[str]:
    """The single words of the evaluation."""
    scored = {word for rows in similarity_words(packages).values() for one, other, _ in rows for word in (one, other)}
    return scored | {word for trial in written_sets()["words"]["trials"] for word in trial}


def lee_documents(packages: Path) -> tuple[list[str], list[list[float]]]:
    """50 news items and people's similarity of each two (Lee, Pincombe and Welsh 2005)."""
    folder = packages / "pypi/gensim/gensim/test/test_data"
    documents = [line for line in read_text(folder / "lee.cor").splitlines() if line.strip()]
    scores = [
        [float(x) for x in line.split()]
        for line in read_text(folder / "similarities0-1.txt").splitlines()
        if line.strip()
    ]
    return documents, scores


def written_sets() -> dict[str, Any]:
    """The sets in `evaluation/`, by file name."""
    return {file.stem: json.loads(read_text(file)) for file in sorted(EVALUATION.glob("*.json"))}


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)


def held_synsets(packages: Path) -> list[Synset]:
    """Noun synsets of which nothing is trained on: for "what is X?" to its gloss."""
    nouns = [synset for synset in synsets(packages) if synset.key.startswith("noun")]
    return sorted(_draw("synsets").sample(nouns, HELD_SYNSETS), key=lambda synset: synset.key)


@dataclass
class Dataset:
    """`texts` are English and get the teacher's vectors. Each example is (input text, index of the text whose vector is
    wanted).
    """

    texts: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    english: list[int] = field(default_factory=list)
    prefixes: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    foreign: list[tuple[str, int]] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    translations: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(self.__dict__, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> "Dataset":
        return cls(**json.loads(file.read_text(encoding="utf-8")))


def usable(text: str) -> bool:
    """Prose of 1 to 900 characters that is mostly letters of any script."""
    return 1 < len(text) <= 900 and sum(char.isalpha() or char == " " for char in text) >= 0.7 * len(text)


class Guard:
    """The rule above: what may be trained on."""

    def __init__(self, forbidden: Iterable[str]) -> None:
        self.forbidden = {canonical(text) for text in forbidden} - {""}

    def allows(self, text: str) -> bool:
        if canonical(text) in self.forbidden:
            return False
        parts = sentences(text) if len(text) > 24 else []
        return len(parts) < 2 or not any(canonical(part) in self.forbidden for part in parts)


def _prefix(text: str, draw: random.Random) -> str:
    """A beginning of `text`: mostly at the end of a word, at times within one, as a stream shows them."""
    words = text.split(" ")
    cut = " ".join(words[: draw.randint(1, len(words) - 1)])
    return cut if draw.random() < 0.7 or len(cut) < 6 else cut[: draw.randint(len(cut) - 3, len(cut))].rstrip()


def build(packages: Path, vocabulary: list[str]) -> Dataset:
    """All of it, the same in each run. `vocabulary` are single words to teach alone (the teacher's own)."""
    data = Dataset()
    pairs = {language: list(translations(packages, language)) for language in LANGUAGES}
    table = {language: list(translated_table(language)) for language in LANGUAGES}

    synset_list = held_synsets(packages)
    held = {synset.key for synset in synset_list}
    forbidden = set(_leaves(written_sets()))
    forbidden |= forbidden_words(packages)
    forbidden |= set(lee_documents(packages)[0])
    for synset in synset_list:
        forbidden |= {*synset_texts(synset), f"what is {synset.words[0]}?"}
    for source in SOURCES:
        if source.held_out:
            found = [
                text for text in dict.fromkeys(map(clean, source.read(packages))) if usable(text) and len(text) > 3
            ]
            _draw(source.name).shuffle(found)
            data.unseen += found[: source.limit]
    forbidden |= set(data.unseen)
    own = {canonical(pair.english) for language in LANGUAGES for pair in table[language]}
    for language in LANGUAGES:
        rows: dict[str, tuple[str, str]] = {}
        for pair in pairs[language]:
            one_sentence = 25 <= len(pair.english) <= 200 and len(sentences(pair.english)) == 1
            if one_sentence and _bucket(pair.english, HELD_TRANSLATIONS) == 0 and canonical(pair.english) not in own:
                rows.setdefault(canonical(pair.english), (pair.text, pair.english))
        data.translations[language] = list(rows.values())
        forbidden |= {text for row in rows.values() for text in row}
    guard = Guard(forbidden)

    index: dict[str, int] = {}

    def add(text: str, source: str) -> int:
        if text not in index:
            index[text] = len(data.texts)
            data.texts.append(text)
            data.sources.append(source)
        return index[text]

    for source in SOURCES:
        if source.held_out:
            continue
        if source.name == "wordnet":
            taught = (synset for synset in synsets(packages) if synset.key not in held)
            raw: Iterable[str] = (text for synset in taught for text in synset_texts(synset))
        else:
            raw = source.read(packages)
        found = [text for text in dict.fromkeys(map(clean, raw)) if usable(text)]
        _draw(source.name).shuffle(found)
        for text in [text for text in found if guard.allows(text)][: source.limit]:
            if text in index:
                continue
            if source.name != "everyday" and _bucket(text, VALIDATION) == 1:
                data.validation.append(text)
            else:
                data.english.append(add(text, source.name))
    held_validation = {canonical(text) for text in data.validation}
    for number in list(data.english):
        text = data.texts[number]
        draw = _draw(text)
        if text.count(" ") >= 3 and draw.random() < PREFIX_SHARE:
            prefix = _prefix(text, draw)
            if usable(prefix) and guard.allows(prefix) and prefix not in index:
                data.prefixes.append(add(prefix, "prefixes"))
    for word in vocabulary:
        if guard.allows(word) and word not in index:
            data.words.append(add(word, "words"))

    for language in LANGUAGES:
        chosen = list(dict.fromkeys(pairs[language]))
        _draw(language).shuffle(chosen)
        rest = [(pair, 1) for pair in chosen[:TRANSLATIONS]] + [(pair, 2) for pair in table[language]]
        for pair, times in rest:
            if _fit(pair, guard, held_validation):
                # An evaluation's word is never itself a target: "a tiger" stands for "tiger".
                english = pair.english if canonical(pair.english) not in guard.forbidden else f"a {pair.english}"
                data.foreign += [(clean(pair.text), add(english, f"translations-{language}"))] * times
    return data


def _fit(pair: Translation, guard: Guard, held_validation: set[str]) -> bool:
    if not (usable(pair.text) and usable(pair.english)) or canonical(pair.english) in held_validation:
        return False
    alone = " " not in pair.english
    return guard.allows(pair.text) and (alone or guard.allows(pair.english))


def summary(data: Dataset) -> str:
    counts = Counter(data.sources)
    lines = [f"{name:24} {count:9,}" for name, count in counts.most_common()]
    shares = f"examples: english {len(data.english):,} prefixes {len(data.prefixes):,} words {len(data.words):,}"
    held = ", ".join(f"{name} {len(rows):,}" for name, rows in data.translations.items())
    return "\n".join(
        [*lines, f"{shares} foreign {len(data.foreign):,}", f"held out: {len(data.unseen):,} unseen, {held}"]
    )
