"""A generator of jets: what comes next, when jets are sentences of tokens and constituents are
ordered by pt.

`Causal` is the encoder, which sees for each token what came before it; `Generator` adds the head
that predicts the next token, and the loss. `jetnb.models.sampling.generate` draws new jets from it.
Tokens are the codes of `jetnb.models.tokenizer`, or any integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import packed
from jetnb.hardware import send
from jetnb.models import _packed, across
from jetnb.models._attention import arrange, check_heads, plan, restore
from jetnb.models._fast import Linear, linear
from jetnb.models.encoder import Block, at_least


class Causal(nn.Module):
    """Pre-norm transformer in which a token sees itself, those before it in its jet, and the start
    of the jet.

    n_codes: K, tokens are integers from 0 to K - 1. dim: D, a multiple of 8 times n_heads.
    n_layers, n_heads: blocks and heads of each. expansion: width of the hidden layer of a block
    over D. dropout: of what each block adds. max_length: tokens of the longest jet that it is made
    for. positions: "none", since with a causal mask a token can tell its place from how many it
    sees (arXiv:2203.16634), and order by pt is in the tokens themselves; or "learned", one vector
    per place. n_classes: learn a start for each class, next to that of jets of unknown class.
    n_features: 0, or F to read F numbers of each constituent in place of its token
    (arXiv:2512.04149). step, kernel: as in `encoder.Transformer`.

    An encoder like those of `jetnb.models.encoder`: constituents are what it makes of each token, a
    jet is their mean, and zeros without constituents. Raises `ValueError` for sizes that do not
    fit. arXiv:2403.05618, there with post-norm blocks and ReLU.

    >>> tokens, offsets = torch.tensor([3, 0, 2, 2, 1]), torch.tensor([0, 3, 5])
    >>> constituents, jets = Causal(4, dim=32, n_layers=2, n_heads=4)(tokens, offsets)
    >>> constituents.shape, jets.shape
    (torch.Size([5, 32]), torch.Size([2, 32]))
    """

    def __init__(
        self,
        n_codes: int,
        *,
        dim: int = 256,
        n_layers: int = 3,
        n_heads: int = 8,
        expansion: int = 4,
        dropout: float = 0.0,
        max_length: int = 128,
        positions: str = "none",
        n_classes: int = 0,
        n_features: int = 0,
        step: int | None = None,
        kernel: str = "auto",
    ):
        super().__init__()
        at_least(1, n_codes=n_codes, n_layers=n_layers, n_heads=n_heads, expansion=expansion)
        at_least(1, max_length=max_length, step=step or 1)
        at_least(0, n_classes=n_classes, n_features=n_features)
        check_heads(dim, n_heads)
        if positions not in ("none", "learned"):
            raise ValueError(f"positions {positions!r} is unknown: use none or learned")
        self.n_codes, self.n_features, self.n_classes, self.dim = (
            n_codes,
            n_features or 1,
            n_classes,
            dim,
        )
        self.reads_tokens, self.max_length, self.step = not n_features, max_length, step
        self.n_heads, self.kernel = n_heads, kernel
        # the last row is for stop, which is never read: so that a head can share the table
        self.embed = Linear(n_features, dim) if n_features else _table(n_codes + 1, dim)
        self.start = _table(1 + n_classes, dim)  # the first is of no class
        self.place = _table(max_length + 1, dim) if positions == "learned" else None
        self.blocks = nn.ModuleList(
            Block(dim, n_heads, expansion, dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """x: tokens (T,) or (T, 1), or features (T, F); offsets (B+1,) -> constituents (T, D), jets
        (B, D).
        """
        x, lengths = self.check(x, offsets)
        h = self.run(x, lengths)[: len(x)]
        return h, _packed.mean(h, lengths)

    def check(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, np.ndarray]:
        """What to read, token ids (T,) int64 or features (T, F), and lengths (B,); `ValueError` if
        they do not fit.
        """
        if not self.reads_tokens:
            return x, _packed.check(x, offsets, self.n_features)
        x = x[:, None] if x.ndim == 1 else x
        lengths = _packed.check(x if x.is_floating_point() else x.float(), offsets, 1)
        return _as_tokens(x[:, 0], self.n_codes), lengths

    def run(self, x: Tensor, lengths: np.ndarray, label: Tensor | None = None) -> Tensor:
        """What is known after each of the T constituents, then at the start of each of the B jets:
        (T + B, D).
        """
        if label is None:
            label = torch.full((len(lengths),), -1, device=x.device)
        h = torch.cat([self.embed(x), self.start(label + 1)])  # (T + B, D)
        if self.place is not None:
            if len(lengths) and lengths.max() > self.max_length:
                raise ValueError(
                    f"the longest jet has {lengths.max()} constituents, but there are learned positions "
                    f"for max_length = {self.max_length}: cut it, or use positions='none'"
                )
            place = np.concatenate([packed.ranks(lengths) + 1, np.zeros(len(lengths), np.int64)])
            h = h + self.place(send(torch.from_numpy(place), x.device))
        # padding comes after the constituents, so none of them sees it, and there is nothing to
        # mask
        cut = plan(lengths, h, n_heads=self.n_heads, token=True, step=self.step, kernel=self.kernel)
        h = arrange(h, cut)  # (S, D)
        for block in self.blocks:
            h = block(h, cut, causal=True)
        return restore(self.norm(h), cut)


class Generator(nn.Module):
    """Next-token prediction: `encoder`, a `Causal`, and a linear `head` on it over K codes and
    stop.

    n_codes and further settings are those of `Causal`. tie_weights: one table both to read tokens
    and to predict them, which with the settings of the source and 8192 codes leaves out a third of
    the parameters; False is as published. Start is not among what is predicted, and stop is token
    K, never read. Jets longer than max_length are cut there, and what follows the cut is no target,
    so that the model does not learn that jets end there. chunk: rows of logits that are held at a
    time; None is 256 on a CPU, to fit its caches, and 4096 elsewhere.

    Raises `ValueError` for sizes that do not fit. arXiv:2403.05618, where dim is 256 and lr 1e-3.
    Taught in notebook 05.

    >>> model = Generator(4, dim=32, n_layers=1, n_heads=4)
    >>> batch = torch.tensor([3, 0, 2, 2, 1]), torch.tensor([0, 3, 5])
    >>> bool(model.loss(batch) < 3)  # a blind guess is log(5) = 1.6
    True
    """

    def __init__(
        self, n_codes: int, *, tie_weights: bool = False, chunk: int | None = None, **settings
    ):
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self.encoder, self.chunk = Causal(n_codes, **settings), chunk
        self.head = Linear(self.encoder.dim, n_codes + 1)
        if tie_weights:
            if not self.encoder.reads_tokens:
                raise ValueError(
                    "tie_weights is True, but n_features are read, not tokens: there is no table to share"
                )
            self.head.weight = self.encoder.embed.weight
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(
        self, x: Tensor, offsets: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits of what follows each constituent, (T, K + 1), and of what comes first in each jet,
        (B, K + 1).
        """
        x, lengths = self.encoder.check(x, offsets)
        logits = self.head(self.encoder.run(x, lengths, self._classes(label, len(lengths))))
        return logits[: len(x)], logits[len(x) :]

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy in nats over all tokens and the stop of each jet, at least in float32.

        batch: tokens (T,) or (T, 1), as integers or as float32, which holds them exactly; with
        n_features (T, 1 + F), the token first. Then offsets (B+1,), with n_classes labels (B,), -1
        where unknown, and anything else. generator: not used, dropout draws from torch's own.
        Raises `ValueError` for no jets and for tokens or labels out of range.
        """
        x, offsets, *targets = batch
        encoder, n_codes = self.encoder, self.encoder.n_codes
        if encoder.reads_tokens:
            x, lengths = encoder.check(x, offsets)
            tokens = x
        else:
            lengths = _packed.check(x, offsets, 1 + encoder.n_features)
            tokens, x = _as_tokens(x[:, 0], n_codes), x[:, 1:]
        if len(lengths) == 0:
            raise ValueError("the batch has no jets: there is nothing to take a mean of")
        label = self._classes(targets[0] if targets else None, len(lengths))
        cut = lengths > encoder.max_length
        if cut.any():
            place = packed.ranks(lengths)
            keep = send(torch.from_numpy(np.flatnonzero(place < encoder.max_length)), x.device)
            x, tokens, lengths = x[keep], tokens[keep], np.minimum(lengths, encoder.max_length)
        h = encoder.run(x, lengths, label)  # (T + B, D)
        following, last = _following(lengths)
        rows = np.arange(len(h))
        if cut.any():
            rows = np.delete(rows, last[cut])
            h, following = h[send(torch.from_numpy(rows), x.device)], following[rows]
        target = F.pad(tokens, (0, 1), value=n_codes)[send(torch.from_numpy(following), x.device)]
        chunk = self.chunk or (256 if h.device.type == "cpu" else 4096)
        loss, nats = _CrossEntropy.apply(
            h, self.head.weight, self.head.bias, target, chunk, torch.is_grad_enabled()
        )
        self._last, self._rows = (nats, target == n_codes), (rows, lengths)
        return across.mean(loss, len(h))

    @torch.no_grad()
    def nats(self, batch: Sequence[Tensor]) -> Tensor:
        """Minus the log probability of each jet, (B,), in nats: of its tokens in their order, and of
        the stop.

        batch and errors: as for `loss`. A longer jet is less probable, whatever it is.
        """
        self.loss(batch)
        rows, lengths = self._rows
        jet = np.concatenate([packed.jet_of(lengths), np.arange(len(lengths))])[rows]
        nats = self._last[0]
        return _packed.total(nats, send(torch.from_numpy(jet), nats.device), len(lengths))

    def monitors(self) -> dict[str, float]:
        """About the last batch of `loss`: `perplexity` of codes and of where jets stop, i.e. exp of
        the mean loss.

        `code_perplexity` is that over codes, from 1 to K for a blind guess, `stop_perplexity` over
        stops. Raises RuntimeError before the first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        nats, stop = self._last
        return {
            "code_perplexity": float(nats[~stop].mean().exp()),
            "stop_perplexity": float(nats[stop].mean().exp()),
        }

    def _classes(self, label: Tensor | None, n_jets: int) -> Tensor | None:
        """Labels as the encoder takes them; what is no label of it is left out."""
        n_classes = self.encoder.n_classes
        if not n_classes or label is None:
            return None
        if label.shape != (n_jets,) or label.is_floating_point():
            raise ValueError(
                f"label is {label.dtype} of shape {tuple(label.shape)}, but must be integers ({n_jets},)"
            )
        if label.device.type == "cpu" and n_jets and (label.min() < -1 or label.max() >= n_classes):
            raise ValueError(
                f"label runs from {label.min()} to {label.max()}, but n_classes is {n_classes}: labels "
                "are from 0, or -1 where unknown"
            )
        return label.long()


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a linear layer, and that of each row; its gradient is made on the way,
    chunk by chunk.

    Logits are in the type of autocast, all that is made of them at least in float32.
    """

    @staticmethod
    def forward(
        ctx, h: Tensor, weight: Tensor, bias: Tensor, target: Tensor, chunk: int, learn: bool
    ):
        kind = h.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h.dtype
        nats = _packed.wide(h.new_empty(len(h)))
        with torch.autocast(kind, enabled=False):
            narrow, weight, bias = (values.to(dtype) for values in (h, weight, bias))
            if learn:
                back = weight.t().contiguous()  # (D, K + 1)
                for_h, for_weight, for_bias = (
                    torch.zeros_like(_packed.wide(v)) for v in (h, back, bias)
                )
            for i in range(0, len(h), chunk):
                rows, at = narrow[i : i + chunk], target[i : i + chunk, None]
                share = _packed.wide(linear(rows, weight, bias)).log_softmax(1)  # (chunk, K + 1)
                nats[i : i + chunk] = -share.gather(1, at)[:, 0]
                if learn:
                    share.exp_().scatter_add_(1, at, -torch.ones_like(at, dtype=share.dtype))
                    for_bias += share.sum(0)
                    share = share.to(dtype)
                    for_h[i : i + chunk] = linear(share, back, torch.zeros_like(rows[0]))
                    for_weight += linear(rows.t().contiguous(), share.t(), torch.zeros_like(bias))
        if learn:
            gradients = for_h, for_weight.t().contiguous(), for_bias
            ctx.save_for_backward(*(values.div_(len(h)) for values in gradients))
        ctx.mark_non_differentiable(nats)
        return nats.mean(), nats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, out: Tensor, _):
        return *(out * values for values in ctx.saved_tensors), None, None, None


def _as_tokens(x: Tensor, n_codes: int) -> Tensor:
    """Tokens (T,) int64 of integers or whole floats (T,); `ValueError` where they are not from 0 to
    n_codes - 1.
    """
    ids = x.long()
    if (
        x.device.type == "cpu"
        and len(x)
        and not ((ids == x).all() and ids.min() >= 0 and ids.max() < n_codes)
    ):
        raise ValueError(
            f"tokens run from {x.min()} to {x.max()}, but must be whole numbers from 0 to {n_codes - 1}: "
            "start and stop are added by the model, and n_codes is that of the tokenizer"
        )
    return ids


def _following(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For T + B rows, constituents and then starts, which token follows, T for stop; and the last
    row of each jet.
    """
    n_tokens, starts = lengths.sum(), packed.starts(lengths)[:-1]
    following = np.concatenate([np.arange(1, n_tokens + 1), starts])
    last = np.where(lengths > 0, starts + lengths - 1, n_tokens + np.arange(len(lengths)))
    following[last] = n_tokens
    return following, last


def _table(n: int, dim: int) -> nn.Embedding:
    """An embedding of the size that suits logits: those of a tied head begin near zero."""
    table = nn.Embedding(n, dim)
    nn.init.normal_(table.weight, std=0.02)
    return table
