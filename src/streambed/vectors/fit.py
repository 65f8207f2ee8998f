"""Vectors to a reducer: what `streambed reduce fit` does. Needs the extra `[reduce]`."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streambed.errors import SettingsError
from streambed.vectors.reducers import FORMAT, Card, Method, Metric, Reducer, Vectors

SEED = 7
TEMPERATURE = 0.05
BATCH = 1024
HIDDEN = 512
Progress = Callable[[float], None]
"""Called with the share that is done, from 0 to 1."""


def require(method: Method) -> None:
    """Raises ImportError where a library that the method needs is not installed; better before the texts are embedded."""
    import sklearn  # noqa: F401

    if method == "umap":
        _import_umap()


def check_size(dimensions: int, size: int) -> None:
    """Raises SettingsError unless `dimensions` is less than the model's."""
    if not 1 <= dimensions < size:
        raise SettingsError(f"--dimensions is {dimensions}; 1 to {size - 1} make this model's vectors smaller")


def fit(
    vectors: Vectors,
    method: Method,
    dimensions: int,
    model: str,
    model_fingerprint: str,
    progress: Progress = lambda share: None,
) -> Reducer:
    """Fits a reducer to a model's unit vectors, float32 [n, hidden]. The same vectors give the same reducer.

    pca: the leading principal components, about the origin. projection: a matrix that begins there and is trained to keep
    each vector's similarities to others, the nearest above all. umap: UMAP's places (McInnes, Healy and Melville 2018) of
    these vectors by cosine, and a network that learns to put others among them.

    Raises:
        SettingsError: as many dimensions as the vectors have, or too few vectors. ImportError: see `require`.
    """
    count, size = vectors.shape
    check_size(dimensions, size)
    if count < max(2 * dimensions, 32):
        raise SettingsError(
            f"{count} texts are too few; {max(2 * dimensions, 32)} or more are needed, better thousands"
        )
    metric: Metric = "cosine"
    layers: tuple[tuple[Vectors, Vectors], ...]
    match method:
        case "pca":
            layers = (_principal(vectors, dimensions),)
        case "projection":
            layers = (_projection(vectors, dimensions, progress),)
        case "umap":
            metric = "euclidean"
            layers = _distilled(vectors, _places(vectors, dimensions), progress)
    progress(1.0)
    card = Card(
        format=FORMAT, method=method, metric=metric, input_dimensions=size, dimensions=dimensions, model=model,
        model_fingerprint=model_fingerprint, texts=count,
    )  # fmt: skip
    return Reducer.build(card, layers)


def _principal(vectors: Vectors, dimensions: int) -> tuple[Vectors, Vectors]:
    # About the origin, not about the mean: it is products that are to be kept, and recall at 100 is .91 against .86.
    from sklearn.decomposition import TruncatedSVD

    found = TruncatedSVD(dimensions, algorithm="arpack", random_state=SEED).fit(vectors)
    weight = np.ascontiguousarray(found.components_, dtype=np.float32)
    return weight, np.zeros(dimensions, dtype=np.float32)


def _projection(vectors: Vectors, dimensions: int, progress: Progress) -> tuple[Vectors, Vectors]:
    """Distillation of similarities: for each text of a batch, the divergence between its distributions of similarity to the
    others, before and after (Hinton and Roweis 2002 with fixed temperature; Tian et al. 2020)."""
    points = torch.from_numpy(vectors)
    weight, bias = (torch.from_numpy(part).requires_grad_() for part in _principal(vectors, dimensions))
    generator = torch.Generator().manual_seed(SEED)
    batch = min(BATCH, len(points))
    steps = max(200, 20 * len(points) // batch)
    optimiser = torch.optim.Adam([weight, bias], lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for step in range(steps):
        chosen = points[torch.randperm(len(points), generator=generator)[:batch]]
        small = F.normalize(chosen @ weight.T + bias, dim=-1)
        loss = _divergence(small @ small.T, chosen @ chosen.T)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        progress((step + 1) / steps)
    return weight.detach().numpy(), bias.detach().numpy()


def _divergence(scores: Tensor, wanted: Tensor) -> Tensor:
    itself = torch.eye(len(scores), dtype=torch.bool)
    ours = F.log_softmax((scores / TEMPERATURE).masked_fill(itself, -1e4), 1)
    theirs = F.log_softmax((wanted / TEMPERATURE).masked_fill(itself, -1e4), 1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def _import_umap() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TensorFlow is not there
        import umap
    return umap


def _places(vectors: Vectors, dimensions: int) -> Vectors:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own parallelism, which a seed turns off
        umap = _import_umap().UMAP(n_components=dimensions, metric="cosine", random_state=SEED)
        found = umap.fit_transform(vectors)
    return np.asarray(found, dtype=np.float32)


def _distilled(vectors: Vectors, places: Vectors, progress: Progress) -> tuple[tuple[Vectors, Vectors], ...]:
    """A network of three layers that learns where UMAP put each vector; the best state on a tenth that it does not see."""
    mean, spread = places.mean(0), float(places.std())
    points, wanted = torch.from_numpy(vectors), torch.from_numpy((places - mean) / spread)
    generator = torch.Generator().manual_seed(SEED)
    order = torch.randperm(len(points), generator=generator)
    unseen, seen = order[: len(order) // 10], order[len(order) // 10 :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        linear = [nn.Linear(a, b) for a, b in ((points.shape[1], HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, wanted.shape[1]))]
    network = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    batch = min(256, len(seen))
    steps = max(1000, 30 * len(seen) // batch)
    best, kept = float("inf"), [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in linear]
    for step in range(steps):
        chosen = seen[torch.randint(len(seen), (batch,), generator=generator)]
        loss = F.mse_loss(network(points[chosen]), wanted[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 50 == 49 or step + 1 == steps:
            with torch.no_grad():
                now = F.mse_loss(network(points[unseen]), wanted[unseen]).item()
            if now < best:
                best, kept = now, [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in linear]
            progress((step + 1) / steps)
    last_weight, last_bias = kept[-1]
    kept[-1] = (last_weight * spread, last_bias * spread + torch.from_numpy(mean))
    return tuple((weight.numpy(), bias.numpy()) for weight, bias in kept)
