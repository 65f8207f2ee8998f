"""Vectors to weights: the student learns the teacher's vectors, rotated so that the leading dimensions say the most.

The target is the teacher's vector times an orthogonal matrix, the principal axes of the training vectors: cosines stay
as they are, and the first 64, 128 and 256 dimensions carry most of the energy, so the Matryoshka property (Kusupati et
al. 2022) costs little. The loss is the distance to the target at 64, 128, 256 and 384 dimensions, and the divergence
between the student's and the teacher's distributions of similarity, to the rest of the batch and to a bank of targets.
Half the batches come from a few clusters, so that neighbours meet.

On a CPU one process a core with one thread each, gradients averaged by gloo: on few cores that is a fifth faster than
one process with threads. A GPU has one process, and takes more texts a step, so that they fill it. Matrices are trained
by Muon (Jordan et al. 2024; torch's own), shared out between the processes, the rest by AdamW.

The run is a function of seed, device and number of tokens (on a GPU but for the order of its sums), whatever stops it: a
state is saved every few minutes, and batches are drawn from (seed, number of the batch).
"""

import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from streambed.machine import usable_cores
from training.dataset import Dataset, Guard, forbidden_words
from training.student import Layer, Shape, Student
from training.teacher import Vectors

SEED = 7
CUTS = (64, 128, 256)
LONGEST = 900  # tokens of one example
BATCH = 8_192  # tokens a process and step, padding included
BATCH_TEXTS = 448
POOL = 8_000  # texts that a few batches are drawn from
GPU_SCALE = 4  # times the three of them
LENGTHY, LENGTHY_SHARE = 64, 0.4  # of the texts with more tokens, so many are used: they cost much and teach one vector
FOREIGN_SHARE, WORD_TIMES = 0.5, 2  # how often a translation, and a single word, is an example
CLUSTERS = 256
BANK = 2_048
TEMPERATURE = 0.05
MATRIX_RATE, EMBEDDING_RATE, NORM_RATE = 2e-3, 1.5e-2, 1.2e-3
LONG_TEXTS = 2_500

INSTRUCTIONS = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
    "Instruct: Given a question, retrieve documents that help answer it\nQuery:",
    "Instruct: Retrieve semantically similar text.\nQuery:",
    "Instruct: Find passages that answer\nQuery:",
    "Query: ",
)


@dataclass
class Examples:
    """Token ids of all examples in one array, and the row of `vectors` that each should get."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    targets: NDArray[np.int64]
    vectors: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)


def variants(text: str, draw: random.Random) -> list[str]:
    """The same text as people also write it. The teacher knows no case, so the vector wanted is the same."""
    found = [text]
    lower = text.lower()
    if lower != text and draw.random() < 0.45:
        found.append(lower)
    if draw.random() < (0.25 if len(text) < 60 else 0.08) and len(text) < 160:  # three times the tokens of lower case
        found.append(text.upper())
    if draw.random() < 0.03:
        found.append(text.title())
    if text[-1:] in ".?!" and draw.random() < 0.15:
        found.append(text[:-1].lower())
    if draw.random() < 0.04:
        found.append(draw.choice(INSTRUCTIONS) + text)
    return found


def prepare(data: Dataset, vectors: Vectors, tokenizer: Tokenizer) -> Examples:
    """All examples, tokenised. Long ones are several texts of one source after another; the mean of their vectors is
    wanted.
    """
    draw = random.Random(SEED)
    texts: list[str] = []
    targets: list[int] = []
    for index in (*data.english, *data.prefixes, *(data.words * WORD_TIMES)):
        found = variants(data.texts[index], draw)
        texts += found
        targets += [index] * len(found)
    for text, index in data.foreign:
        if draw.random() < FOREIGN_SHARE:
            texts.append(text)
            targets.append(index)
    table = vectors.of(data.texts)
    prose = [index for index in data.english if len(data.texts[index]) > 150]
    means: list[NDArray[np.float16]] = []
    for _ in range(min(LONG_TEXTS, len(prose))):
        parts = [draw.choice(prose) for _ in range(draw.randint(3, 8))]
        texts.append(" ".join(data.texts[part] for part in parts))
        targets.append(len(table) + len(means))
        mean = table[parts].astype(np.float32).mean(0)
        means.append((mean / np.linalg.norm(mean)).astype(np.float16))
    tokenizer.enable_truncation(max_length=LONGEST)
    encoded = [
        encoding.ids
        for start in range(0, len(texts), 20_000)
        for encoding in tokenizer.encode_batch(texts[start : start + 20_000])
    ]
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])]).astype(np.int64)
    ids = np.fromiter((token for row in encoded for token in row), np.int32, int(starts[-1]))
    rows = np.concatenate([table, np.array(means, np.float16).reshape(-1, table.shape[1])])
    return Examples(ids, starts, np.array(targets, np.int64), rows)


def rotation(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    """Principal axes, most energy first: float32 `[d, d]`, orthogonal."""
    sample = vectors[np.random.default_rng(SEED).permutation(len(vectors))[:100_000]].astype(np.float32)
    _, axes = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(axes[:, ::-1], np.float32)


def clusters(vectors: NDArray[np.float16], targets: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Examples by k-means of their targets' first 80 dimensions."""
    points = F.normalize(torch.from_numpy(vectors[:, :80].astype(np.float32)), dim=-1)
    count = min(CLUSTERS, len(points))
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(SEED))
    centres = points[order[:count]].clone()
    nearest = torch.zeros(len(points), dtype=torch.long)
    for _ in range(6):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in torch.split(points, 50_000)])
        centres = F.normalize(torch.zeros(count, 80).index_add_(0, nearest, points), dim=-1)
    group = nearest.numpy()[targets]
    by_group = np.argsort(group, kind="stable")
    return [part for part in np.split(by_group, np.cumsum(np.bincount(group, minlength=count))[:-1]) if len(part)]


def steps(
    examples: Examples, groups: list[NDArray[np.int64]], world: int, scale: int = 1
) -> Iterator[tuple[list[NDArray[np.int64]], NDArray[np.int64]]]:
    """Without end: for each process a batch of examples, and the bank of targets that belongs to the step. `scale`
    multiplies what a batch and the pool behind it hold.
    """
    lengths = examples.lengths
    pool = 0
    while True:
        draw = np.random.default_rng((SEED, pool))
        pool += 1
        if draw.random() < 0.5:
            chosen = draw.integers(0, len(examples), scale * POOL)
        else:
            picked = draw.choice(len(groups), min(8, len(groups)), replace=False)
            chosen = np.concatenate([groups[i][draw.permutation(len(groups[i]))[: scale * POOL // 8]] for i in picked])
        chosen = chosen[(lengths[chosen] <= LENGTHY) | (draw.random(len(chosen)) < LENGTHY_SHARE)]
        order = chosen[np.argsort(lengths[chosen] + draw.random(len(chosen)), kind="stable")]
        batches = []
        start = 0
        while start < len(order):
            end = min(start + scale * BATCH_TEXTS, len(order))
            while (end - start) * lengths[order[end - 1]] > scale * BATCH and end - start > 8:
                end -= 8
            batches.append(order[start:end])
            start = end
        batches = [batches[i] for i in draw.permutation(len(batches)) if len(batches[i]) >= 8]
        bank = examples.targets[draw.choice(chosen, min(BANK, len(chosen)), replace=False)]
        for i in range(0, len(batches) - world + 1, world):
            yield batches[i : i + world], bank


def collate(examples: Examples, batch: NDArray[np.int64], end: int) -> tuple[Tensor, Tensor]:
    """Ids `[n, longest]`, padded to the right, and the place of each end token."""
    lengths = examples.lengths[batch]
    places = np.arange(lengths.max())
    chosen = np.minimum(examples.starts[batch][:, None] + places, len(examples.ids) - 1)
    ids = np.where(places < lengths[:, None], examples.ids[chosen], end).astype(np.int64)
    return torch.from_numpy(ids), torch.from_numpy(lengths - 1)


def _divergence(scores: Tensor, wanted: Tensor, hidden: Tensor) -> Tensor:
    ours = F.log_softmax((scores / TEMPERATURE).masked_fill(hidden, -1e4), 1)
    theirs = F.log_softmax((wanted / TEMPERATURE).masked_fill(hidden, -1e4), 1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def loss_of(hidden: Tensor, target: Tensor, bank: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the mean cosine distance. `same` `[n, bank]` says where the bank holds the text's own target."""
    target = F.normalize(target, dim=-1)
    ours = F.normalize(hidden, dim=-1)
    distance = (1 - (ours * target).sum(1)).mean()
    loss = 8 * distance
    alike = (target @ target.T) > 0.9999  # the text itself and its variants
    loss = (
        loss + _divergence(ours @ ours.T, target @ target.T, alike) + _divergence(ours @ bank.T, target @ bank.T, same)
    )
    for cut in CUTS:
        ours_cut, target_cut = F.normalize(hidden[:, :cut], dim=-1), F.normalize(target[:, :cut], dim=-1)
        loss = loss + 1.5 * (1 - (ours_cut * target_cut).sum(1)).mean()
        if cut == 128:
            loss = loss + 0.4 * _divergence(ours_cut @ ours_cut.T, target_cut @ target_cut.T, alike)
    return loss, distance.detach()


def token_texts(tokenizer: Tokenizer, guard: Guard) -> list[str]:
    """What the teacher is asked for each token's first vector. A word of the evaluation is not asked for alone: "a
    tiger".
    """
    texts = [tokenizer.decode([index]).strip().lower() or " " for index in range(tokenizer.get_vocab_size())]
    return [text if guard.allows(text) else f"a {text}" for text in texts]


def first_weights(student: Student, tokens: Tensor) -> None:
    """Start as a mean of the teacher's vectors of the tokens: the first two layers attend evenly and carry half each."""
    size = student.shape.hidden_size
    with torch.no_grad():
        student.embed_tokens.weight.copy_(tokens * math.sqrt(size) * 0.7)
        student.embed_tokens.weight[-1].normal_(0, 0.05)
        for name, weight in student.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "gate_proj.weight", "up_proj.weight")):
                weight.normal_(0, 0.03)
            elif name.endswith("down_proj.weight"):
                weight.normal_(0, 0.01)
            elif name.endswith(("v_proj.weight", "o_proj.weight")):
                weight.normal_(0, 0.02)
            elif "q_norm" in name or "k_norm" in name:
                weight.fill_(0.7)
        half, per = size // 2, student.shape.num_attention_heads // student.shape.num_key_value_heads
        for number, layer in enumerate(list(student.layers)[:2]):
            assert isinstance(layer, Layer)
            attention = layer.self_attn
            value, out = attention.v_proj.weight, attention.o_proj.weight
            value.normal_(0, 0.004)
            out.normal_(0, 0.004)
            for row in range(half):
                value[row, number * half + row] += 1
                group, place = divmod(row, student.shape.head_dim)
                for head in range(group * per, (group + 1) * per):
                    out[number * half + row, head * student.shape.head_dim + place] += 1 / per


@torch.no_grad()
def embed(student: Student, tokenizer: Tokenizer, texts: list[str]) -> NDArray[np.float32]:
    """float32 `[n, hidden]`, of unit length."""
    tokenizer.enable_truncation(max_length=LONGEST)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])]).astype(np.int64)
    ids = np.array([token for row in encoded for token in row], np.int32)
    examples = Examples(ids, starts, np.zeros(len(texts), np.int64), np.zeros((1, 1), np.float16))
    order = np.argsort(examples.lengths, kind="stable")
    device = student.embed_tokens.weight.device
    found = np.zeros((len(texts), student.shape.hidden_size), np.float32)
    for part in np.array_split(order, max(1, len(order) // 64)):
        inputs = (tensor.to(device) for tensor in collate(examples, part, student.shape.vocab_size - 1))
        found[part] = F.normalize(student(*inputs), dim=-1).cpu().numpy()
    return found


def neighbour_recall(ours: NDArray[np.float32], theirs: NDArray[np.float32], within: int) -> float:
    """How often the nearest text by `theirs` is among the `within` nearest by `ours`. Vectors are of unit length."""
    wanted = theirs @ theirs.T
    np.fill_diagonal(wanted, -2)
    nearest = wanted.argmax(1)
    scores = ours @ ours.T
    np.fill_diagonal(scores, -2)
    rank = (scores >= scores[np.arange(len(ours)), nearest][:, None]).sum(1)
    return float((rank <= within).mean())


def _average(student: Student, world: int) -> None:
    if world == 1:
        return
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.view(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


@dataclass(frozen=True)
class Job:
    folder: Path
    tokens: int
    world: int
    save_every: int = 100
    """Steps between states on disk."""
    look_every: int = 300
    """Steps between looks at the validation texts."""
    device: str = "cpu"
    scale: int = 1
    """See `steps`."""


def _run(rank: int, job: Job) -> None:
    if job.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(SEED)
    meeting = job.folder / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=job.world)
    tokenizer = Tokenizer.from_file(str(job.folder / "tokenizer.json"))
    stored = np.load(job.folder / "examples.npz")
    examples = Examples(stored["ids"], stored["starts"], stored["targets"], stored["vectors"])
    groups, lengths = clusters(examples.vectors, examples.targets), examples.lengths
    student = Student(Shape(vocab_size=tokenizer.get_vocab_size()))
    first_weights(student, torch.from_numpy(stored["tokens"].astype(np.float32)))
    student.to(job.device)
    vectors = torch.from_numpy(examples.vectors).to(job.device)
    end = student.shape.vocab_size - 1
    matrices = [weight for name, weight in student.named_parameters() if name.endswith("_proj.weight")]
    norms = [weight for name, weight in student.named_parameters() if "norm" in name]
    muon = torch.optim.Muon(
        matrices[rank :: job.world], lr=MATRIX_RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
    )
    groups_of_others: list[dict[str, object]] = [{"params": [student.embed_tokens.weight]}, {"params": norms}]
    adam = torch.optim.AdamW(
        groups_of_others,
        betas=(0.9, 0.98),
        eps=1e-8,
        weight_decay=0,
        fused=True,
    )
    peaks = (MATRIX_RATE, EMBEDDING_RATE, NORM_RATE)
    step = seen = 0
    pointer = job.folder / "state.json"
    if pointer.exists():
        place = json.loads(pointer.read_text())
        state = torch.load(job.folder / f"state-{place['step']}-{rank}.pt", weights_only=True, map_location=job.device)
        student.load_state_dict(state["student"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step, seen = place["step"], place["tokens"]

    def say(**what: object) -> None:
        if rank == 0:
            with open(job.folder / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps({"step": step, "tokens": seen, **what}) + "\n")

    def look() -> None:
        texts = json.loads((job.folder / "validation.json").read_text(encoding="utf-8"))
        ours = embed(student, tokenizer, texts)
        theirs = stored["validation"].astype(np.float32)
        say(cosine=float((ours * theirs).sum(1).mean()), recall=[neighbour_recall(ours, theirs, k) for k in (1, 10)])

    def save() -> None:
        state = {"student": student.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
        torch.save(state, job.folder / f"state-{step}-{rank}.pt")
        dist.barrier()
        if rank == 0:
            part = pointer.with_suffix(".part")
            part.write_text(json.dumps({"step": step, "tokens": seen}))
            os.replace(part, pointer)
            for old in job.folder.glob("state-*.pt"):
                if not old.name.startswith(f"state-{step}-"):
                    old.unlink()

    # On a GPU, kernels are few and large: compiling takes longer than it saves.
    forward = torch.compile(student, dynamic=True) if job.device == "cpu" else student
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.percentage:>5.1f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, disable=rank > 0, refresh_per_second=1) as progress:
        bar = progress.add_task("training", total=job.tokens, completed=seen, note="")
        began, began_at, sums = time.monotonic(), seen, torch.zeros(3, device=job.device)
        for number, (batches, bank_rows) in enumerate(steps(examples, groups, job.world, job.scale)):
            if seen >= job.tokens:
                break
            if number < step:
                continue  # drawn before the run was stopped
            share = seen / job.tokens
            rate = min(1.0, (share + 1e-3) / 0.02) * (1 - share)
            for group, peak in zip((*muon.param_groups, *adam.param_groups), peaks, strict=True):
                group["lr"] = peak * rate
            rows = torch.from_numpy(examples.targets[batches[rank]]).to(job.device)
            of_bank = torch.from_numpy(bank_rows).to(job.device)
            inputs = (tensor.to(job.device) for tensor in collate(examples, batches[rank], end))
            loss, distance = loss_of(
                forward(*inputs), vectors[rows].float(), vectors[of_bank].float(), rows[:, None] == of_bank[None]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            _average(student, job.world)
            torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            muon.step()  # type: ignore[no-untyped-call]
            adam.step()
            student.zero_grad(set_to_none=True)
            for owner, weight in enumerate(matrices if job.world > 1 else ()):
                dist.broadcast(weight.data, owner % job.world)
            step += 1
            seen += int(sum(len(batch) * lengths[batch].max() for batch in batches))
            sums += torch.stack([loss.detach(), distance, torch.ones_like(distance)])
            progress.update(bar, completed=seen)
            if step % 20 == 0:  # reading the loss waits for a GPU
                speed = (seen - began_at) / (time.monotonic() - began)
                total, far, count = sums.tolist()
                say(loss=total / count, distance=far / count, rate=rate, tokens_per_s=round(speed))
                progress.update(bar, note=f"loss {total / count:.3f}")
                sums.zero_()
            if step % job.save_every == 0:
                save()
            if step % job.look_every == 0 and rank == 0:
                look()
        if rank == 0:
            look()
            torch.save(student.cpu().state_dict(), job.folder / "student.pt")
    dist.barrier()
    dist.destroy_process_group()


def _store(data: Dataset, packages: Path, folder: Path) -> None:
    """Everything that the processes read, in one file: token ids, the rotated targets, the tokens' first vectors."""
    vectors = Vectors(folder / "teacher")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    examples = prepare(data, vectors, tokenizer)
    axes = rotation(examples.vectors)

    def rotated(table: NDArray[np.float16]) -> NDArray[np.float16]:
        parts = (table[start : start + 100_000].astype(np.float32) @ axes for start in range(0, len(table), 100_000))
        return np.concatenate([part.astype(np.float16) for part in parts])

    (folder / "validation.json").write_text(json.dumps(data.validation, ensure_ascii=False), encoding="utf-8")
    with open(folder / "examples.part", "wb") as file:
        np.savez(
            file,
            ids=examples.ids,
            starts=examples.starts,
            targets=examples.targets,
            vectors=rotated(examples.vectors),
            tokens=rotated(vectors.of(token_texts(tokenizer, Guard(forbidden_words(packages))))),
            validation=rotated(vectors.of(data.validation)),
            axes=axes,
        )
    os.replace(folder / "examples.part", folder / "examples.npz")


def train(data: Dataset, packages: Path, folder: Path, tokens: int, device: str) -> None:
    """Train on `tokens` tokens (padding counts); leaves `student.pt` and `log.jsonl` in `folder`, goes on if it was
    stopped. device: `cpu` or `cuda`.
    """
    if not (folder / "examples.npz").exists():
        _store(data, packages, folder)
    if device == "cpu":
        run(Job(folder, tokens, min(usable_cores(), 8)))
    else:
        run(Job(folder, tokens, 1, save_every=4_000, look_every=1_000, device=device, scale=GPU_SCALE))


def run(job: Job) -> None:
    """Train on what `examples.npz` holds, from the state that the folder holds, if any."""
    (job.folder / "meeting").unlink(missing_ok=True)
    spawn(_run, args=(job,), nprocs=job.world)  # type: ignore[no-untyped-call]
