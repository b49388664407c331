"""Drawing new jets from a `generator.Generator`, token by token, with what was computed kept in a
cache.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from jetnb.models._packed import wide
from jetnb.models.generator import Generator

# Rows of a batch are filled up to a multiple of it: matrix products of a row or two round otherwise
# than those of more.
ROWS = 8


@torch.no_grad()
def generate(
    model: Generator,
    n_jets: int,
    *,
    seed: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    labels=None,
    max_length: int | None = None,
    batch_size: int | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
    fixed: bool | None = None,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Draw jets: tokens (T,) int64 and offsets (n_jets + 1,) int64, on the CPU.

    seed: jet b is a function of it and b, not of `batch_size` or `n_jets`, up to the rounding of
    other kernels. temperature: divides logits; below 1 likely tokens become likelier. top_k: draw
    from the k likeliest alone. top_p: from as few of the likeliest as make this share of the
    probability, arXiv:1904.09751. All act on stop too; none of them, the default, draws what was
    learned. labels: one class of the model, or one for each jet, -1 for none. max_length: tokens at
    most; None is that of the model. Warns how many jets did not stop by then, if any. batch_size:
    jets at a time, None is 128 on a CPU and 2048 elsewhere; an H200 made 2 300 jets/s with 128 in
    bfloat16, 8 700 with 1024 and 11 800 with 4096, whose cache takes 1.6 GB. fixed: keep arrays in
    their shapes until all jets of a batch have stopped: a GPU is asked for that only now and then,
    and replays the work of one token as a CUDA graph; otherwise a jet that stops leaves the batch.
    None is fixed on a GPU alone. features: for a model with n_features, from tokens (n,) int64 to
    features (n, F), e.g. `lambda tokens: table[tokens]` of what the tokenizer decodes. dtype:
    torch.bfloat16 for weights and cache of half the size, which changes what is drawn a little.
    Raises `ValueError` for arguments that make no sense. Taught in notebook 05.

    >>> tokens, offsets = generate(Generator(4, dim=32, n_layers=1, n_heads=4), 3, seed=1, progress=False)
    >>> len(tokens) == offsets[-1]
    tensor(True)
    """
    encoder = model.encoder
    max_length = encoder.max_length if max_length is None else max_length
    device = model.head.weight.device
    if batch_size is None:
        batch_size = 128 if device.type == "cpu" else 2048
    _check(model, n_jets, temperature, top_k, top_p, max_length, batch_size, features)
    label = _labels(labels, n_jets, encoder.n_classes)
    training = model.training
    share = partial(probabilities, temperature=temperature, top_k=top_k, top_p=top_p)
    if device.type == "mps":  # has no float64
        device = torch.device("cpu")
    if dtype is not None or device != model.head.weight.device:
        model = copy.deepcopy(model).to(device, dtype)
    parts, unfinished = [], 0
    fixed = device.type == "cuda" if fixed is None else fixed
    try:
        model.eval()
        if fixed and n_jets:
            drawing = Fixed(model, min(batch_size, n_jets), max_length + 1, features, share)
        with tqdm(total=n_jets, unit=" jets", disable=not progress) as bar:
            for first in range(0, n_jets, batch_size):
                jets = range(first, min(first + batch_size, n_jets))
                uniform = _uniform(seed, jets, max_length + 1).to(device)
                given = label[jets.start : jets.stop].to(device)
                if fixed:
                    tokens = drawing.fill(uniform, given)
                    bar.update(len(jets))
                else:
                    tokens = _fill(uniform, model, given, features, share, bar)
                unfinished += int((tokens[:, -1] != encoder.n_codes).sum())
                parts.append(tokens[:, :-1].cpu())
    finally:
        model.train(training)
    if unfinished:
        warnings.warn(
            f"{unfinished} of {n_jets} jets did not stop within {max_length} tokens and are cut there: they "
            "are shorter than the model would have them",
            stacklevel=3,
        )
    tokens = torch.cat(parts) if parts else torch.empty(0, max_length, dtype=torch.int64)
    real = tokens != encoder.n_codes  # (n_jets, max_length)
    return tokens[real], F.pad(real.sum(1).cumsum(0), (1, 0))


def _uniform(seed: int, jets: range, n: int) -> Tensor:
    """Numbers (B, n) in [0, 1), float64, of each jet its own; times a total they stay below it."""
    draws = [np.random.default_rng([seed, jet]).integers(2**32, size=n) for jet in jets]
    return torch.from_numpy(np.stack(draws) / 2**32)


def probabilities(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """What to draw with, of logits (B, V): (B, V), at least in float32, of any sum. Arguments as in
    `generate`.

    Of tokens that are equally likely at the edge of top_k all stay.
    """
    logits = wide(logits)
    if temperature != 1:
        logits = logits / temperature
    if top_k is not None and top_k < logits.shape[1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    share = logits.softmax(1)
    if top_p is not None and top_p < 1:
        ranked, order = share.sort(dim=1, descending=True, stable=True)
        beyond = ranked.cumsum(1) - ranked >= top_p  # what comes before is enough
        share = share.masked_fill(beyond.scatter(1, order, beyond), 0)
    return share


def draw(share: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (B,) drawn with probabilities `share` (B, V), of any sum, from uniform (B,), float64
    in [0, 1).

    The cumulative sum is inverted: first that over blocks of tokens, then that within the block it
    leads to, since one over all V tokens takes longer than all else that is done to logits.
    """
    width = math.isqrt(share.shape[1]) + 1
    blocks = F.pad(share, (0, -share.shape[1] % width)).unflatten(1, (-1, width))
    block, rest = _invert(blocks.sum(2), uniform)
    within, _ = _invert(blocks[torch.arange(len(share), device=share.device), block], rest)
    return block * width + within


def _invert(share: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Where uniform (B,) falls among the parts of share (B, n), and how far into that part, in [0,
    1).
    """
    total = share.cumsum(1, dtype=torch.float64)
    goal = uniform[:, None] * total[:, -1:]
    # the first part that ends beyond, so one that is not empty
    at = torch.searchsorted(total, goal, right=True)
    left = total.gather(1, at) - goal
    return at[:, 0], (1 - left / share.gather(1, at))[:, 0].clamp(0, 1 - 2**-40)


def _fill(uniform: Tensor, model: Generator, label: Tensor, features, share, bar) -> Tensor:
    """Tokens (B, L + 1), drawn one column after the other, stop and all after it as n_codes.

    uniform (B, L + 1), label (B,). The last column is only to see whether a jet stops. Jets that go
    on are kept in the first rows of the cache: those behind move into the rows of jets that
    stopped.
    """
    encoder, (n_jets, n_steps) = model.encoder, uniform.shape
    tokens = torch.full((n_jets, n_steps), encoder.n_codes, device=uniform.device)
    cache = Cache(encoder, n_jets + -n_jets % ROWS, n_steps)
    jet = torch.arange(n_jets, device=tokens.device)  # of each row
    h = encoder.start(label + 1)
    for step in range(n_steps):
        if step:
            last = tokens[jet, step - 1]
            h = encoder.embed(last if features is None else features(last).to(h.dtype))
        spare = -len(h) % ROWS
        h, chance = cache.advance(F.pad(h, (0, 0, 0, spare))), F.pad(uniform[jet, step], (0, spare))
        # on a CPU few rows at a time, since logits that do not fit the caches cost more than their
        # products
        size = 4 * ROWS if h.device.type == "cpu" else len(h)
        drawn = torch.cat(
            [
                draw(share(model.head(rows)), at)
                for rows, at in zip(h.split(size), chance.split(size), strict=True)
            ]
        )[: len(jet)]
        tokens[jet, step] = drawn
        on = drawn != encoder.n_codes
        n_on = int(on.sum())
        if n_on < len(jet):
            bar.update(len(jet) - n_on)
            holes, movers = (~on[:n_on]).nonzero()[:, 0], on[n_on:].nonzero()[:, 0] + n_on
            jet[holes] = jet[movers]
            jet = jet[:n_on]
            cache.move(movers, holes)
        if not n_on:
            break
    bar.update(len(jet))
    return tokens


class Cache:
    """Keys and values (layers, 2, B, heads, L, D / heads) of what B jets have so far, all of them
    equally long.
    """

    def __init__(self, encoder, n_jets: int, length: int):
        weight = encoder.start.weight
        heads = encoder.blocks[0].n_heads
        self.encoder, self.length = encoder, 0
        self.kept = weight.new_empty(
            len(encoder.blocks), 2, n_jets, heads, length, encoder.dim // heads
        )

    def advance(self, h: Tensor) -> Tensor:
        """From what is read next (n, D) by the first n jets to what the encoder makes of it, (n,
        D).
        """
        n, at = len(h), self.length
        self.length += 1

        def attend(kept: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kept[0, :n, :, at], kept[1, :n, :, at] = k, v
            return _look(q, *kept[:, :n, :, : at + 1])

        if self.encoder.place is not None:
            h = h + self.encoder.place.weight[at]
        return _through(self.encoder, h, self.kept, attend)

    def move(self, movers: Tensor, holes: Tensor) -> None:
        """Put the jets in rows `movers` into the rows `holes`."""
        if len(movers):
            self.kept[:, :, holes, :, : self.length] = self.kept[:, :, movers, :, : self.length]


class Fixed:
    """Drawing in arrays of one shape and place, so that the work of one token is always the same:
    `step`.

    model, features, share: as in `generate`. n_jets: rows, n_steps: tokens of each. Jets that
    stopped stay, and what is drawn for them is stop. On a GPU the step is captured as a CUDA graph,
    if there are no features, of which nobody knows what they do; where that fails it warns, and
    goes step by step.
    """

    EVERY = 16  # steps between two looks at whether all jets have stopped, for which a GPU is waited for

    def __init__(self, model: Generator, n_jets: int, n_steps: int, features, share: Callable):
        device = model.head.weight.device
        self.model, self.features, self.share, self.n_steps = model, features, share, n_steps
        # what is masked must be a number all the same
        self.kept = Cache(model.encoder, n_jets, n_steps).kept.zero_()
        self.tokens = torch.empty(n_jets, n_steps, dtype=torch.int64, device=device)
        self.uniform = torch.zeros(n_jets, n_steps, dtype=torch.float64, device=device)
        self.label = torch.full((n_jets,), -1, device=device)  # rows without a jet are of no class
        self.last = torch.zeros(n_jets, dtype=torch.int64, device=device)
        self.going = torch.zeros(n_jets, dtype=torch.bool, device=device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device)  # which token is next
        self.places = torch.arange(n_steps, device=device)
        self.work = self._capture() if device.type == "cuda" and features is None else self.step

    def fill(self, uniform: Tensor, label: Tensor) -> Tensor:
        """Tokens (B, L + 1) of up to n_jets jets, stop and all after it as n_codes; uniform (B, L +
        1), label (B,).
        """
        n = len(uniform)
        self.tokens.fill_(self.model.encoder.n_codes)
        self.uniform[:n], self.label[:n] = uniform, label
        self.label[n:] = -1
        self.going.fill_(False)
        self.going[:n] = True
        self.place.zero_()
        for step in range(self.n_steps):
            self.work()
            if step % self.EVERY == self.EVERY - 1 and not self.going.any():
                break
        return self.tokens[:n].clone()

    def step(self) -> None:
        """Draw the next token of all jets."""
        encoder, stop = self.model.encoder, self.model.encoder.n_codes
        read = encoder.embed(
            self.last if self.features is None else self.features(self.last).to(self.kept.dtype)
        )
        h = torch.where(self.place == 0, encoder.start(self.label + 1), read)
        chance = self.uniform.index_select(1, self.place)[:, 0]
        drawn = draw(self.share(self.model.head(self._advance(h))), chance)
        drawn = torch.where(self.going, drawn, stop)
        self.tokens.index_copy_(1, self.place, drawn[:, None])
        self.going.logical_and_(drawn != stop)
        self.last.copy_(drawn.clamp(max=stop - 1))  # of which there are features
        self.place.add_(1)

    def _advance(self, h: Tensor) -> Tensor:
        """As `Cache.advance`, with a look at all places, of which those to come are masked."""
        encoder, beyond = self.model.encoder, self.places > self.place

        def attend(kept: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            for values, new in zip(kept, (k, v), strict=True):
                values.index_copy_(2, self.place, new[:, :, None])
            return _look(q, *kept, beyond)

        if encoder.place is not None:
            h = h + encoder.place.weight.index_select(0, self.place)
        return _through(encoder, h, self.kept, attend)

    def _capture(self) -> Callable[[], None]:
        """The step as a CUDA graph, or the step itself."""
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):  # what a kernel does at its first call cannot be captured
                    self.place.zero_()
                    self.step()
            torch.cuda.current_stream().wait_stream(stream)
            self.place.zero_()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step()
        except RuntimeError as error:
            warnings.warn(
                f"drawing goes without a CUDA graph, and more slowly: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return self.step
        return graph.replay


def _through(encoder, h: Tensor, kept: Tensor, attend: Callable) -> Tensor:
    """All layers for one more place of each jet, h (n, D) -> (n, D).

    attend: puts its key and value into what one layer has kept, and looks at all of them.
    """
    for block, layer in zip(encoder.blocks, kept, strict=True):
        q, k, v = block.before(h).view(len(h), 3, block.n_heads, -1).unbind(1)
        h = block.after(h, attend(layer, q, k, v).flatten(1))
    return encoder.norm(h)


def _look(q: Tensor, keys: Tensor, values: Tensor, beyond: Tensor | None = None) -> Tensor:
    """Attention of one place, q (n, heads, d), to L places, keys and values (n, heads, L, d): (n,
    heads, d).

    beyond (L,): True for places that are not looked at.
    """
    score = torch.matmul(keys, q[..., None] * q.shape[-1] ** -0.5)[..., 0]  # (n, heads, L)
    if beyond is not None:
        score = score.masked_fill(beyond, -torch.inf)
    return torch.matmul(score.softmax(-1)[..., None, :], values)[..., 0, :]


def _check(model, n_jets, temperature, top_k, top_p, max_length, batch_size, features) -> None:
    encoder, problem = model.encoder, None
    if n_jets < 0:
        problem = f"n_jets is {n_jets}: it must be at least 0"
    elif batch_size < 1:
        problem = f"batch_size is {batch_size}: it must be at least 1"
    elif max_length < 1:
        problem = f"max_length is {max_length}: it must be at least 1"
    elif encoder.place is not None and max_length > encoder.max_length:
        learned = f"the model has learned positions for {encoder.max_length} tokens"
        problem = f"max_length is {max_length}: {learned}"
    elif not temperature > 0:
        remedy = "it must be positive; for the likeliest token alone use top_k=1"
        problem = f"temperature is {temperature}: {remedy}"
    elif top_k is not None and top_k < 1:
        problem = f"top_k is {top_k}: it must be at least 1, or None for all tokens"
    elif top_p is not None and not 0 < top_p <= 1:
        problem = f"top_p is {top_p}: it is a share above 0 and up to 1, or None for all tokens"
    elif encoder.reads_tokens and features is not None:
        problem = "features are given, but the model reads tokens: leave it out"
    elif not encoder.reads_tokens and features is None:
        remedy = "give a function from tokens (n,) to features (n, F)"
        problem = f"features is None, but the model reads features: {remedy}"
    elif not all(weight.isfinite().all() for weight in model.parameters()):
        problem = f"{type(model).__name__} has weights that are not finite: train it again"
    if problem:
        raise ValueError(problem)


def _labels(labels, n_jets: int, n_classes: int) -> Tensor:
    """Labels (n_jets,) int64, -1 where there are none."""
    label = torch.as_tensor(-1 if labels is None else labels)
    label = label.expand(n_jets) if label.ndim == 0 else label
    if label.shape != (n_jets,) or label.is_floating_point():
        raise ValueError(f"labels is {tuple(label.shape)}: give one integer, or {n_jets} of them")
    if n_jets and not -1 <= label.min() <= label.max() < n_classes:
        raise ValueError(
            f"labels is {[int(label.min()), int(label.max())]}: the model has {n_classes} classes, from 0; "
            "-1 is for none"
        )
    return label.long()
