"""What is lost when constituents become tokens and come back: errors, k-means as a tokenizer, and
drawing from a cell.

found, tokens = roundtrip.run(model, data)
roundtrip.errors(found, data.x)
"""

from __future__ import annotations

import numpy as np
import torch

from jetnb.inputs import batches
from jetnb.models import tokenizer


@torch.no_grad()
def run(model, data, *, batch_size: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Encode and decode jets: particles (T, 3) of pt [GeV], eta_rel, phi_rel [rad], and tokens (T,).

    model: a `Tokenizer` without extras, on any device. data: `batches.Packed` of
    `tokenizer.particles`. batch_size: jets that are worked on at a time. Taught in notebook 04.
    """
    found, trains = [(np.empty((0, 3), np.float32), np.empty(0, np.int64))], model.training
    model.eval()  # in training mode codes would follow what they see
    for rows in batches.split(np.arange(len(data)), batch_size):
        x, offsets, *_ = data[rows]
        scaled, tokens, _ = model(x.to(model.mean.device), offsets)
        log_pt, *angles = (scaled * model.width + model.mean).T
        again = torch.stack([log_pt.exp(), *angles], dim=1)
        found.append((again.cpu().numpy(), tokens.cpu().numpy()))
    model.train(trains)
    particles, tokens = zip(*found, strict=True)
    return np.concatenate(particles), np.concatenate(tokens)


def errors(found, true) -> dict[str, float]:
    """How far particles (T, 3) are from the true ones, in the median: "direction", the distance in
    eta_rel and phi_rel, and "pt", the relative error. Taught in notebook 04.
    """
    moved = np.asarray(found) - np.asarray(true)
    return {
        "direction": np.median(np.hypot(*moved[:, 1:].T)),
        "pt": np.median(abs(moved[:, 0] / np.asarray(true)[:, 0])),
    }


def k_means(data, n_codes: int, *, seed: int):
    """A tokenizer without networks: its codes are found by k-means on all jets of `data`, in the
    three scaled numbers of a constituent. Taught in notebook 04.
    """
    new = tokenizer.build({"n_codes": n_codes, "context": "features"}, seed=seed)
    return new.fit(data, seed=seed, n_jets=len(data)).eval()


def draw(model, tokens, data, *, seed: int) -> np.ndarray:
    """Decode tokens (T,) by drawing, for each, one of the constituents of `data` with this token:
    particles (T, 3).

    Where no constituent of `data` has the token, the centre of the cell stands in. It makes sense
    for tokenizers that look at each constituent alone, such as `k_means`. Taught in notebook 04.
    """
    _, cells = run(model, data)
    empty = np.setdiff1d(np.unique(tokens), cells)
    centres = model.decode(torch.from_numpy(empty), torch.tensor([0, len(empty)])).cpu().numpy()
    x, cells = np.concatenate([data.x, centres]), np.concatenate([cells, empty])
    order = np.argsort(cells, kind="stable")
    first = np.searchsorted(cells[order], np.arange(model.n_codes + 1))
    rng = np.random.default_rng(seed)
    return x[order[rng.integers(first[tokens], first[tokens + 1])]]
