"""Every reader on a few lines of the format that it reads."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from pathlib import Path

import pytest
from training.fetch import LANGUAGES
from training.sources import SOURCES, Translation, passages, sentences

from training import sources


def put(packages: Path, name: str, text: str) -> None:
    file = packages / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def texts(name: str, packages: Path) -> list[str]:
    return list(next(source for source in SOURCES if source.name == name).read(packages))


def test_sentences() -> None:
    found = sentences("He met Dr. Who at the station.  Was it late?\nNo. It was not late at all!")
    assert found == ["He met Dr. Who at the station.", "Was it late?", "No. It was not late at all!"]
    assert sentences("a title without an end") == ["a title without an end"]
    assert sentences("") == []


def test_passages_give_the_paragraph_too() -> None:
    assert passages("One is not enough. Two are company here.")[-1] == "One is not enough. Two are company here."
    long = " ".join(f"This is sentence number {i} of many." for i in range(100))
    assert len(passages(long)) == 101
    assert len(passages(long)[-1]) <= 900


def test_wordnet(tmp_path: Path) -> None:
    line = (
        '00001740 03 n 02 big_cat 0 feline(a) 0 001 @ 00001930 n 0000 | a large cat; "the cat ate"; "a cat slept"  \n'
    )
    for part in ("noun", "verb", "adj", "adv"):
        put(tmp_path, f"debian/usr/share/wordnet/data.{part}", "  1 licence\n" + line)
    (first, *_) = sources.synsets(tmp_path)
    assert first == sources.Synset(
        "noun:00001740", ("big cat", "feline"), "a large cat", ("the cat ate", "a cat slept")
    )
    assert {"a large cat", "the cat ate", "big cat", "feline"} <= set(texts("wordnet", tmp_path))
    assert texts("wordnet", tmp_path) == texts("wordnet", tmp_path)


def test_dictionary(tmp_path: Path) -> None:
    file = tmp_path / "debian/usr/share/dictd/devil.dict.dz"
    file.parent.mkdir(parents=True)
    file.write_bytes(
        gzip.compress(b"ABSURDITY\n   {n.} A statement of belief inconsistent\n   with one's own opinion.\n")
    )
    assert texts("devil", tmp_path) == ["ABSURDITY", "n. A statement of belief inconsistent with one's own opinion."]


def test_documentation_is_prose(tmp_path: Path) -> None:
    page = (
        "<head><title>x</title></head><h1>Opening a file &amp; more</h1><pre>code()</pre><p>Use <b>open</b> for it.</p>"
    )
    put(tmp_path, "debian/usr/share/doc/postgresql-doc-15/html/a.html", page)
    assert texts("postgresql", tmp_path) == ["Opening a file & more", "Use open for it."]


def test_conversations(tmp_path: Path) -> None:
    one = {"prompt": "Hi?", "messages": [[{"text": "Hello there"}, {"text": "how are you"}], [{"text": "fine"}]]}
    put(tmp_path, "pypi/chitchat-dataset/chitchat_dataset/dataset.json", json.dumps({"id": one}))
    assert texts("conversations", tmp_path) == ["Hi?", "Hello there", "how are you", "Hello there how are you", "fine"]


def test_chatterbot(tmp_path: Path) -> None:
    yml = "categories:\n- AI\nconversations:\n- - What is AI?\n  - A branch of science.\n"
    put(tmp_path, "pypi/chatterbot-corpus/data/english/ai.yml", yml)
    assert texts("chatterbot", tmp_path) == ["AI", "What is AI?", "A branch of science."]


def description(language: str, short: str, body: str) -> str:
    return f"Package: x\nDescription-md5: abc\nDescription-{language}: {short}\n {body}\n"


def test_translated_descriptions(tmp_path: Path) -> None:
    put(tmp_path, "descriptions/en.txt", description("en", "a game", "Play it. It is really fun.\n .\n Second part."))
    put(tmp_path, "descriptions/de.txt", description("de", "ein Spiel", "Spiel es. Es macht Spaß.\n .\n Zweiter Teil."))
    found = list(sources.translated_descriptions(tmp_path, "de"))
    assert Translation("de", "ein Spiel", "a game") in found
    assert Translation("de", "Zweiter Teil.", "Second part.") in found
    assert "a game" in texts("descriptions", tmp_path)
    assert not [pair for pair in found if "Description" in pair.text + pair.english]


def test_translated_help_goes_by_paragraph(tmp_path: Path) -> None:
    folder = "debian/usr/share/libreoffice/help"
    put(tmp_path, f"{folder}/en-US/text/a.html", '<p id="par_1" class="x">Save the file.</p><p id="par_2">Same</p>')
    put(tmp_path, f"{folder}/fr/text/a.html", '<p id="par_2">Same</p><p id="par_1" class="x">Enregistrez.</p>')
    assert list(sources.translated_help(tmp_path, "fr")) == [Translation("fr", "Enregistrez.", "Save the file.")]


def test_translated_messages(tmp_path: Path) -> None:
    folder = tmp_path / "debian/usr/lib/firefox-esr"
    (folder / "browser/extensions").mkdir(parents=True)
    english = "# note\nopen = Open { -brand-name }\n    .label = A label\ncount = { $n -> }\n"
    for file, locale, text in (
        (folder / "omni.ja", "en-US", english),
        (folder / "browser/omni.ja", "en-US", ""),
        (
            folder / "browser/extensions/langpack-de@firefox-esr.mozilla.org.xpi",
            "de",
            "open = { -brand-name } öffnen\n",
        ),
    ):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"localization/{locale}/a.ftl", text)
    assert list(sources.translated_messages(tmp_path, "de")) == [Translation("de", "Firefox öffnen", "Open Firefox")]
    assert texts("browser", tmp_path) == ["Open Firefox", "A label"]


def test_translated_names(tmp_path: Path) -> None:
    for language, name in (("en", "dog face"), ("es", "cara de perro")):
        body = {"annotations": {"annotations": {"🐶": {"tts": [name], "default": [name, "pet"]}}}}
        put(tmp_path, f"npm/cldr-annotations-full/package/annotations/{language}/annotations.json", json.dumps(body))
    found = list(sources.translated_names(tmp_path, "es"))
    assert found == [
        Translation("es", "cara de perro", "dog face"),
        Translation("es", "cara de perro, pet", "dog face, pet"),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_own_tables_are_complete(language: str) -> None:
    pairs = list(sources.translated_table(language))
    assert len(pairs) > 2_000
    assert all(pair.text and pair.english for pair in pairs)


@pytest.mark.slow
def test_own_grammar_is_varied_and_repeatable() -> None:
    found = next(iter(sources.SOURCES)).read(Path())
    assert list(found)[:500] == sources.everyday(1, 200_000)[:500]
    assert len(set(sources.everyday(2, 5_000))) == 5_000


def test_every_source_is_in_the_data_page() -> None:
    page = (Path(sources.__file__).parent / "DATA.md").read_text(encoding="utf-8")
    for source in SOURCES:
        row = re.search(rf"^\| `{source.name}` \| ([\d,]+)?", page, re.M)
        assert row, f"{source.name} is not in training/DATA.md"
        if not source.held_out:
            assert row[1] == f"{source.limit:,}"
