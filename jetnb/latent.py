"""The latent space: embed jets with an encoder, project to two dimensions to look at, count
neighbours to measure.

A map by t-SNE or UMAP shows which jets are neighbours, not how far apart groups are or how large:
axes, distances and areas have no unit, and other seeds give other maps. So put PCA and a second
seed beside it, and quote `knn`, which works in the full space.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import threadpoolctl
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from jetnb import _compiled, metrics

METHODS = ("pca", "tsne", "umap")
N_COMPONENTS = 50  # principal components that t-SNE and UMAP see: their search for neighbours slows down with more


class Neighbours(NamedTuple):
    """What `knn` found: accuracy, AUC where there are two classes (else None), and the settings."""

    accuracy: metrics.Estimate
    auc: metrics.Estimate | None
    k: int
    metric: str
    n_train: int
    n_test: int

    def __repr__(self) -> str:
        auc = f", AUC {self.auc}" if self.auc else ""
        return (
            f"{self.k} nearest neighbours ({self.metric}) of {self.n_test} jets among {self.n_train}: "
            f"accuracy {self.accuracy}{auc}"
        )


def embed(encoder: torch.nn.Module, data, *, batch_size: int = 512) -> np.ndarray:
    """Vectors that `encoder` makes of all jets of `data`.

    encoder: encoder(x, offsets) -> constituents (T, D), jets (B, D), or the latter alone; it works
    on the device of its parameters, in evaluation mode without gradients, and is left in the mode
    that it came in. data: N jets, len(data) and data[indices] -> (x (T, F), offsets (B+1,), ...),
    as for `jetnb.training.fit`. batch_size: jets at a time; the result depends on it only by
    rounding.

    Returns (N, D) float32, in the order of the data. Raises ValueError for no jets, a batch_size
    below 1, and a vector that is not finite. Taught in notebook 09.
    """
    n_jets = len(data)
    if batch_size < 1 or n_jets < 1:
        raise ValueError(
            f"batch_size must be at least 1, got {batch_size}, and data has {n_jets} jets: pass some"
        )
    device = next((one.device for one in encoder.parameters()), torch.device("cpu"))
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    blocks = []
    try:
        with torch.no_grad():
            for first in range(0, n_jets, batch_size):
                x, offsets, *_ = data[np.arange(first, min(first + batch_size, n_jets))]
                z = encoder(x.to(device), offsets)
                blocks.append((z[1] if isinstance(z, tuple) else z).float().cpu().numpy())  # (B, D)
    finally:
        for module in training:
            module.training = True
    return _checked(np.concatenate(blocks), "z")


def project(
    z, method: str = "pca", *, seed: int, start: str = "pca", perplexity: float | None = None
) -> np.ndarray:
    """Project vectors to two dimensions, each feature first shifted and scaled to mean 0 and width
    1.

    z: (N, D), at least 10 jets. method: "pca", or "tsne" (JMLR 9 (2008) 2579) or "umap"
    (arXiv:1802.03426) of the leading 50 principal components, in the usual settings (perplexity 30;
    15 neighbours, minimal distance 0.1). start: where the points of these begin, "pca", which keeps
    some of the large-scale order, or "random", which does not. seed: the same gives the same map on
    the same machine; PCA, and t-SNE that starts from it, do not depend on it.

    Returns (N, 2) float32, without unit. Raises ValueError for an unknown method or start, values
    that are not finite, too few jets, a perplexity that is not from 1 to below N, and vectors that
    are all the same. Taught in notebook 09.

    >>> project(np.random.default_rng(1).normal(size=(20, 8)), seed=0).shape
    (20, 2)
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: use one of {', '.join(METHODS)}")
    if start not in ("pca", "random"):
        raise ValueError(f"start {start!r} is unknown: use pca or random")
    z = _checked(z, "z")
    if len(z) < 10 or z.shape[1] < 2:
        raise ValueError(f"z has shape {z.shape}: a map needs at least 10 jets and 2 features")
    perplexity = min(30, len(z) / 4) if perplexity is None else perplexity
    if not 1 <= perplexity < len(z):
        raise ValueError(
            f"perplexity is {perplexity}, but must be from 1 to below the number of jets, {len(z)}"
        )
    scaled = StandardScaler().fit_transform(z.astype(np.float64))
    if not scaled.any():
        raise ValueError(
            "z is the same for all jets: the representation has collapsed, there is nothing to show"
        )
    n = 2 if method == "pca" else min(N_COMPONENTS, *z.shape)
    solver = "covariance_eigh" if z.shape[1] <= 1000 else "full"  # exact, so without a seed
    scaled = PCA(n, svd_solver=solver).fit_transform(scaled).astype(np.float32)
    if method == "tsne":
        # UMAP gives OpenMP all cores, which few jets only spend in waiting for each other: ten
        # times as long.
        with threadpoolctl.threadpool_limits(1 if len(z) < 10_000 else None, "openmp"):
            scaled = TSNE(init=start, perplexity=perplexity, random_state=seed).fit_transform(
                scaled
            )
    if method == "umap":
        umap = _compiled.with_cache(_umap)
        scaled = umap.UMAP(
            init=start, n_neighbors=min(15, len(z) - 1), random_state=seed, n_jobs=1
        ).fit_transform(scaled)
    return np.asarray(scaled, np.float32)


def _umap():
    import umap  # seconds

    return umap


def knn(z_train, y_train, z_test, y_test, *, k: int = 20, metric: str = "cosine") -> Neighbours:
    """Classify jets by the majority of their `k` nearest neighbours in the full space: what a map
    cannot say.

    z_train, z_test: (N, D), (M, D). y_train, y_test: class indices (N,), (M,). metric: "cosine"
    between the vectors as they are, as contrastive losses measure, or "euclidean" after scaling
    each feature to width 1 on the training jets. Returns `Neighbours`: accuracy with its exact
    binomial interval and, for two classes, the AUC of the fraction of neighbours in the class with
    the larger index. The intervals are for the test jets: training jets stay the same. Raises
    ValueError for shapes that do not fit, values that are not finite, k outside 1..N, and an
    unknown metric. Taught in notebook 09.

    >>> z, y = np.array([[0., 1], [0, 2], [1, 0], [2, 0]]), np.array([0, 0, 1, 1])
    >>> float(knn(z, y, z, y, k=1).accuracy.value)
    1.0
    """
    z_train, z_test, y_train, y_test = (
        _checked(z_train, "z_train"),
        _checked(z_test, "z_test"),
        *map(np.asarray, (y_train, y_test)),
    )
    for name, z, y in (("train", z_train, y_train), ("test", z_test, y_test)):
        if y.shape != (len(z),) or z.shape[1] != z_train.shape[1]:
            raise ValueError(
                f"z_{name} has shape {z.shape}, y_{name} {y.shape}: need one class for each jet, and "
                f"{z_train.shape[1]} features as in training"
            )
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r} is unknown: use cosine or euclidean")
    if not 1 <= k <= len(z_train):
        raise ValueError(
            f"k is {k}, but must be from 1 to the number of training jets, {len(z_train)}"
        )
    if metric == "euclidean":
        scaler = StandardScaler().fit(z_train)
        z_train, z_test = scaler.transform(z_train), scaler.transform(z_test)
    else:  # neighbours on the unit sphere are the same, and the search for Euclidean ones is much the faster
        z_train, z_test = (
            z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12) for z in (z_train, z_test)
        )
    model = KNeighborsClassifier(k, algorithm="brute").fit(z_train, y_train)
    shares = model.predict_proba(z_test)  # (M, C)
    auc = None
    if shares.shape[1] == 2 and set(np.unique(y_test)) == set(model.classes_):
        auc = metrics.auc(y_test == model.classes_[1], shares[:, 1])
    return Neighbours(
        metrics.accuracy(y_test, model.classes_[shares.argmax(axis=1)]),
        auc,
        k,
        metric,
        len(z_train),
        len(z_test),
    )


def _checked(z, name: str) -> np.ndarray:
    """z as (N, D) float32, finite."""
    z = np.asarray(z, np.float32)
    if z.ndim != 2 or not z.size:
        raise ValueError(
            f"{name} has shape {z.shape}, but must be (jets, features): embed makes it"
        )
    if not (finite := np.isfinite(z).all(axis=1)).all():
        raise ValueError(
            f"{name} of jet {np.argmin(finite)} is not finite: did the training diverge?"
        )
    return z
