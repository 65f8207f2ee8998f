"""The images, built once for the tests of this folder."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.images import Images, pip_settings


@dataclass(frozen=True)
class Built:
    images: Images
    server: str
    client: str
    hidden: frozenset[str]
    """What stands in the pip.conf that the build was given, and must not stand in an image."""
    told: str
    """Size of each image and seconds of each build."""


@pytest.fixture(scope="session")
def built() -> Iterator[Built]:
    if os.geteuid():
        pytest.skip("images are built and run as root")
    folder = Path(tempfile.mkdtemp(prefix="streambed-images-"))
    images = Images(folder)
    try:
        start = time.monotonic()
        images.make_base()
        told = [f"base: {images.bytes_of('localhost/streambed-base') / 1e6:,.0f} MB, {time.monotonic() - start:.0f} s"]
        settings, paths = pip_settings()
        marker = secrets.token_hex(16)
        with (folder / "pip.conf").open("w") as file:
            file.write(f"# {marker}\n")
            settings.write(file)
        pointed_to = {word for section in settings.sections() for key, value in settings.items(section)
                      if key != "cert" for word in value.split() if "/" in word}  # fmt: skip
        names = {}
        for target in ("client", "server"):
            start = time.monotonic()
            names[target] = images.build(target, folder / "pip.conf", paths)
            told.append(f"{target}: {images.bytes_of(names[target]) / 1e6:,.0f} MB, {time.monotonic() - start:.0f} s")
        yield Built(images, **names, hidden=frozenset(pointed_to | {marker}), told="; ".join(told))
    finally:
        images.close()
