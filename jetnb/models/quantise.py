"""Vector quantisation: each latent vector becomes the nearest of K codes, and the codes follow the
latents.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from jetnb.models._packed import wide
from jetnb.models.across import shared

BLOCK = 64  # codes of which the best is found together
TREE = 4, 4096  # on a CPU, up to so many dimensions and from so many codes on, a tree is quicker
TINY = 1e-20


@torch.no_grad()
def nearest(z: Tensor, codes: Tensor, *, memory: int | None = None) -> Tensor:
    """Index of the code nearest to each vector.

    z (T, D), codes (K, D): floats. memory: bytes to work in, beside what goes in and comes out;
    None is what is quick: 2 MB on a CPU, where it stays in the cache, and 256 MB elsewhere.
    Distances are at least float32, whatever autocast and `torch.set_float32_matmul_precision` say:
    in bfloat16 one vector in forty gets another code. Of codes that are equally far up to rounding
    it may be any. Returns tokens (T,) int64; those of vectors that are not finite mean nothing.
    Raises `ValueError` for shapes that do not fit.

    >>> nearest(torch.tensor([[0.2], [0.9]]), torch.tensor([[0.0], [1.0]]))
    tensor([0, 1])
    """
    if z.ndim != 2 or codes.ndim != 2 or z.shape[1] != codes.shape[1] or len(codes) == 0:
        raise ValueError(
            f"z has shape {tuple(z.shape)} and codes {tuple(codes.shape)}, but they must be (T, D) and "
            "(K, D), with one code or more"
        )
    dtype, on_cpu = (
        torch.promote_types(wide(z[:0]).dtype, wide(codes[:0]).dtype),
        z.device.type == "cpu",
    )
    z, codes = z.detach().to(dtype), codes.detach().to(dtype)
    if on_cpu and z.shape[1] <= TREE[0] and len(codes) >= TREE[1]:
        # Quicker to build, and as exact.
        tree = cKDTree(codes.numpy(), balanced_tree=False, compact_nodes=False)
        found = [
            tree.query(part.nan_to_num().numpy())[1]
            for part in z.split((memory or 2**21) // 64 + 1)
        ]
        return torch.from_numpy(np.concatenate(found).astype(np.int64, copy=False))
    # Nearest is where z . c - c . c / 2 is largest. First the best block, then the best in it: to
    # find the place of a maximum is slow, to find its value is quick.
    n_blocks = -(-len(codes) // BLOCK)
    missing = n_blocks * BLOCK - len(codes)
    half = F.pad(-0.5 * codes.square().sum(1), (0, missing), value=-torch.inf)[:, None]  # (K', 1)
    codes = F.pad(codes, (0, 0, 0, missing))  # (K', D)
    rows = max(1, (memory or (2**21 if on_cpu else 2**28)) // (len(codes) * codes.element_size()))
    rows = min(rows, max(len(z), 1))
    score, best = codes.new_empty(len(codes) * rows), codes.new_empty(n_blocks * rows)
    column, tokens = (
        torch.arange(rows, device=z.device),
        torch.empty(len(z), dtype=torch.int64, device=z.device),
    )
    with _exact(z.device.type):
        for part, out in zip(z.split(rows), tokens.split(rows), strict=True):
            n = len(part)
            scores, highest = (
                score[: len(codes) * n].view(len(codes), n),
                best[: n_blocks * n].view(n_blocks, n),
            )
            torch.addmm(half, codes, part.T, out=scores)
            scores = scores.view(n_blocks, BLOCK, n)
            block = torch.amax(scores, 1, out=highest).argmax(0)  # (n,)
            torch.add(scores[block, :, column[:n]].argmax(1), block, alpha=BLOCK, out=out)
    return tokens


class VectorQuantiser(nn.Module):
    """Latents (T, dim) to their nearest codes, with gradients that pass through; the codes follow
    the latents.

    n_codes: K. update: how codes follow: "ema", as the running mean of their latents, which forgets
    1 - `decay` of the past with each batch, arXiv:1711.00937 (appendix A.1); or "gradient", as
    parameters, which also get the gradient of what is made of them, arXiv:2305.08842, as published
    for OmniJet-alpha. beta: of the loss, beta pulls codes to latents and 1 - beta latents to codes;
    with "ema" only the latter is there. rotate: the rotation trick, arXiv:2410.06424: the gradient
    is rotated and stretched as the latent is to its code, instead of passing straight through.
    patience: of dead-code revival: a code that no latent of so many batches in a row has chosen is
    put on a random latent of the batch; None leaves it. Only training mode changes codes.

    Call `start` before training; until then codes are random. Raises `ValueError` for settings out
    of range. arXiv:1711.00937, dead-code revival arXiv:2305.08842. Taught in notebook 04.
    """

    def __init__(
        self,
        dim: int,
        n_codes: int,
        *,
        update: str = "ema",
        decay: float = 0.95,
        beta: float = 0.9,
        rotate: bool = False,
        patience: int | None = 30,
    ):
        super().__init__()
        for name, value in (
            ("dim", dim),
            ("n_codes", n_codes),
            ("patience", 1 if patience is None else patience),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name, value in (("decay", decay), ("beta", beta)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {value}")
        if update not in ("ema", "gradient"):
            raise ValueError(f'update is {update!r}: it is "ema" or "gradient"')
        self.n_codes, self.update, self.decay, self.beta = n_codes, update, decay, beta
        self.rotate, self.patience = rotate, patience
        codes = torch.randn(n_codes, dim)
        if update == "ema":
            self.register_buffer("codes", codes)
            # (K, D) running sum of the latents of each code
            self.register_buffer("total", codes.clone())
        else:
            self.codes = nn.Parameter(codes)
        # (K,) running number of latents of each code per batch, and batches since it was chosen
        self.register_buffer("count", torch.ones(n_codes))
        self.register_buffer("unused", torch.zeros(n_codes, dtype=torch.int64))
        self.register_buffer("moved", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def start(self, z: Tensor, *, seed: int, n_steps: int = 10) -> VectorQuantiser:
        """Put the codes where `n_steps` of k-means from random latents z (T, dim) lead; returns
        self.

        The same seed gives the same codes on the same machine. Raises `ValueError` for fewer
        latents than codes, and for such as are not finite.
        """
        if len(z) < self.n_codes or not z.isfinite().all():
            raise ValueError(
                f"{self.n_codes} codes cannot start from {len(z)} latents of which "
                f"{int(z.isfinite().all(1).sum())} are finite: give more jets, or take fewer codes"
            )
        z = z.to(self.codes)
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
        codes = z[order[: self.n_codes].to(z.device)]
        for _ in range(n_steps):
            count, total = self._sums(z, nearest(z, codes))
            codes = torch.where(count[:, None] > 0, total / count[:, None], codes)
        self._put(torch.ones_like(self.unused, dtype=torch.bool), codes)
        return self

    def forward(
        self, z: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z (T, dim) -> their codes (T, dim), with gradients to z; tokens (T,) int64; the
        codebook's loss, a scalar.

        generator: draws where dead codes are revived; None is torch's global one. At least float32.
        """
        with torch.autocast(z.device.type, enabled=False):
            z = wide(z)
            if self.training and self.patience and len(z):
                self._revive(z.detach(), generator)
            tokens = nearest(z, self.codes)
            q = F.embedding(tokens, self.codes)
            loss = (1 - self.beta) * F.mse_loss(z, q.detach())
            if self.update == "gradient":
                loss = loss + self.beta * F.mse_loss(q, z.detach())
            through = _rotation_trick(z, q.detach()) if self.rotate else z
            if self.training:
                self._follow(z.detach(), tokens)
            return q + (through - through.detach()), tokens, loss

    def monitors(self) -> dict[str, float]:
        """How the codebook is used: `perplexity`, the number of codes that would be chosen if all
        of them were equally often, over the last 1 / (1 - decay) batches; `codes_used`, the share
        that the last batch chose; `codes_moved`, how many dead codes were revived since the start.
        """
        return {
            "perplexity": float(perplexity(self.count)),
            "codes_used": float((self.unused == 0).double().mean()),
            "codes_moved": int(self.moved),
        }

    @torch.no_grad()
    def _follow(self, z: Tensor, tokens: Tensor) -> None:
        """Take a batch into account; one that is not finite changes nothing."""
        count, total = self._sums(z, tokens)
        if shared():
            for values in (count, total):
                dist.all_reduce(values)
        fine = total.isfinite().all()
        self.unused.copy_(torch.where(fine, (self.unused + 1) * (count == 0), self.unused))
        self.count.lerp_(torch.where(fine, count, self.count), 1 - self.decay)
        if self.update == "ema":
            self.total.lerp_(torch.where(fine, total, self.total), 1 - self.decay)
            count = self.count[:, None]
            self.codes.copy_(torch.where(count > TINY, self.total / count, self.codes))

    @torch.no_grad()
    def _revive(self, z: Tensor, generator: torch.Generator | None) -> None:
        """Dead-code revival: put codes that are not chosen any more on random latents."""
        # Drawn for all codes: to look which are dead would mean waiting for the device.
        rows = torch.randint(len(z), (self.n_codes,), generator=generator, device=z.device)
        new = z[rows]  # (K, D)
        if shared():
            dist.broadcast(new, 0)
        dead = (self.unused >= self.patience) & new.isfinite().all(1)
        self._put(dead, new)
        self.moved += dead.sum()

    @torch.no_grad()
    def _put(self, where: Tensor, codes: Tensor) -> None:
        """Move the codes where (K,) is True, as if one latent of every batch had been there."""
        self.codes.copy_(torch.where(where[:, None], codes, self.codes))
        if self.update == "ema":
            self.total.copy_(torch.where(where[:, None], codes, self.total))
        self.count.masked_fill_(where, 1)
        self.unused.masked_fill_(where, 0)

    def _sums(self, z: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Number (K,) and sum (K, D) of the latents of each code."""
        return (
            self.count.new_zeros(self.n_codes).index_add(0, tokens, self.count.new_ones(len(z))),
            self.codes.new_zeros(self.codes.shape).index_add(0, tokens, z.to(self.codes)),
        )


def perplexity(count: Tensor) -> Tensor:
    """Number of codes that would be chosen if all of them were equally often: the exponential of
    the entropy, a scalar.

    count (K,): how often each code is chosen. Between 1 and K. Taught in notebook 04.

    >>> float(perplexity(torch.tensor([5, 5, 0, 0])))
    2.0
    """
    return torch.special.entr(count.double() / count.double().sum()).sum().exp()


def _rotation_trick(z: Tensor, q: Tensor) -> Tensor:
    """z rotated and stretched to q, in a way that the gradient takes for constant. arXiv:2410.06424
    (section 4.2).
    """
    size = z.detach().norm(dim=1, keepdim=True).clamp(min=1e-6)
    start, end = z.detach() / size, F.normalize(q, dim=1)
    middle = F.normalize(start + end, dim=1)
    rotated = (
        z
        - 2 * middle * (middle * z).sum(1, keepdim=True)
        + 2 * end * (start * z).sum(1, keepdim=True)
    )
    return rotated * (q.norm(dim=1, keepdim=True) / size)


@contextlib.contextmanager
def _exact(device: str):
    """Matrix products in the precision of their type."""
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
