"""Images built by buildah on a base of Debian's packages, and run by podman, all in one folder that is theirs."""

from __future__ import annotations

import ast
import configparser
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.groups import program

ROOT = Path(__file__).parents[2]
SECONDS = 600
"""How long a command may take before a test calls it a hang."""
BASE = "localhost/streambed-base"
PACKAGES = (
    "python3-venv", "base-files", "base-passwd", "ca-certificates", "coreutils", "dash", "libstdc++6", "login", "passwd",
)  # fmt: skip
"""Of Debian: what python:3.11-slim has of what the Dockerfile uses."""
SAFELY = (
    "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    # podman asks for more than a machine may allow.
    "--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096",
)  # fmt: skip


def run(*command: str | Path, **environment: str) -> str:
    """What a command prints on standard output."""
    done = subprocess.run(
        [*map(str, command)],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


def pip_settings() -> tuple[configparser.RawConfigParser, list[Path]]:
    """This machine's settings of pip as a pip.conf, and the files and folders that they point to."""
    settings = configparser.RawConfigParser()
    settings.add_section("global")
    paths = []
    # Variables last: they win over files.
    listed = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):
        name, _, literal = line.partition("=")
        section, _, key = name.rpartition(".")
        section = "global" if section == ":env:" else section
        value = ast.literal_eval(literal)
        if not settings.has_section(section):
            settings.add_section(section)
        settings.set(section, key, value)
        for word in value.split():
            at = Path(unquote(urlsplit(word).path)) if word.startswith("file:") else Path(word)
            if at.is_absolute() and at.exists():
                # The pages of an index point to files beside it.
                paths.append(at.parent if key.endswith("index-url") else at)
    return settings, paths


class Images:
    """A store of images and containers in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {"TMPDIR": str(folder)}
        place = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
        self._buildah = [program("buildah"), *place]
        # Without overlay each layer is a copy of all below it.
        tried = subprocess.run(
            [*self._buildah, "--storage-driver", "overlay", "images"], capture_output=True, check=False
        )
        driver = "vfs" if tried.returncode else "overlay"
        self._buildah += ["--storage-driver", driver]
        self._podman = [program("podman"), *place, "--storage-driver", driver, "--tmpdir", str(folder / "tmp")]
        self._podman += ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--log-level", "fatal"]
        # crun runs on no machine that mixes the two versions of cgroups.
        self._podman += ["--runtime", program("runc", "crun")]

    def buildah(self, *arguments: str | Path) -> str:
        return run(*self._buildah, *arguments, **self._environment)

    def podman(self, *arguments: str | Path) -> str:
        return run(*self._podman, *arguments, **self._environment)

    def make_base(self) -> None:
        """An image of Debian's packages as they are unpacked, without their scripts."""
        packages, root = self.folder / "packages", self.folder / "base"
        (packages / "partial").mkdir(parents=True)
        nothing = self.folder / "installed"
        nothing.touch()
        run(
            program("apt-get"), "install", "--download-only", "--yes", "--no-install-recommends",
            "-o", f"Dir::State::status={nothing}", "-o", f"Dir::Cache::archives={packages}", "-o", "APT::Sandbox::User=root",
            *PACKAGES,
        )  # fmt: skip
        for package in sorted(packages.glob("*.deb")):
            run("dpkg-deb", "--extract", package, root)
        (root / "usr" / "bin" / "python").symlink_to("python3")
        for name in ("passwd", "group"):
            shutil.copy(root / "usr" / "share" / "base-passwd" / f"{name}.master", root / "etc" / name)
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, root, "/")
        self.buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", container)
        self.buildah("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(packages)
        shutil.rmtree(root)

    def build(self, target: str, settings: Path, readable: Sequence[Path]) -> str:
        """Builds a target of the Dockerfile, with settings of pip that name these paths. Returns the image's name."""
        image = f"localhost/streambed-{target}"
        self.buildah(
            "build", "--isolation=chroot", "--pull-never", "--format=docker", f"--target={target}", f"--tag={image}",
            f"--build-arg=BASE={BASE}", f"--build-arg=TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}",
            f"--secret=id=pip,src={settings}", *(f"--volume={path}:{path}:ro" for path in readable), ROOT,
        )  # fmt: skip
        return image

    def bytes_of(self, image: str) -> int:
        return int(self.podman("image", "inspect", "--format={{.Size}}", image))

    @contextmanager
    def running(self, image: str, options: Sequence[str], arguments: Sequence[str]) -> Iterator[Container]:
        """A container in a network of its own, in which nothing else is. It is removed at the end, its volumes are not."""
        name = self.podman("run", "--detach", "--network=none", *SAFELY, *options, image, *arguments)
        try:
            yield Container(self, name)
        finally:
            self.podman("rm", "--force", "--time=0", name)

    def close(self) -> None:
        self.podman("rm", "--force", "--all", "--time=0", "--volumes")
        self.podman("volume", "rm", "--all", "--force")
        shutil.rmtree(self.folder)


class Container:
    def __init__(self, images: Images, name: str) -> None:
        self.images, self.name = images, name

    def inspect(self, what: str) -> str:
        """A field, by Go's template."""
        return self.images.podman("inspect", "--format={{" + what + "}}", self.name)

    @property
    def output(self) -> str:
        done = subprocess.run(
            [*self.images._podman, "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return done.stdout

    def execute(self, *command: str) -> str:
        return self.images.podman("exec", self.name, *command)

    def ready(self) -> Container:
        """Waits until the image's own health check is content."""
        end = time.monotonic() + SECONDS
        check = [*self.images._podman, "healthcheck", "run", self.name]
        while subprocess.run(check, capture_output=True, check=False).returncode:
            assert self.inspect(".State.Running") == "true", self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.5)
        return self

    def wait(self) -> int:
        """Waits until it has ended. Returns its exit code."""
        return int(self.images.podman("wait", self.name))

    def end(self) -> int:
        """Asks it to end, as the image says to. Returns its exit code."""
        self.images.podman("stop", "--time=60", self.name)
        return self.wait()
