"""Particle Transformer: an encoder whose attention knows what each pair of constituents is to each
other.

x, offsets = inputs(jets)  # features as published, and momenta
encoder, head = load_public("ParT_full.pt")
logits = head(encoder.eval()(torch.from_numpy(x), torch.from_numpy(offsets))[1])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import awkward as ak
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import kinematics
from jetnb.inputs import TRACK, UNSCALED, Batch, Scaler, compute
from jetnb.jets import plain
from jetnb.models import _packed
from jetnb.models._attention import arrange, attend, check_heads, plan, restore
from jetnb.models._fast import Linear, drop, linear
from jetnb.models._pairs import PairEmbed, normalise
from jetnb.models._regions import Regions
from jetnb.models.particles import massless

# The inputs of the published models in their order: what is subtracted, what the rest is multiplied
# with, and between what it is clipped then. From JetClass_full.yaml of
# github.com/jet-universe/particle_transformer and, with the same numbers, analyzers/OrtHelper.h of
# github.com/jet-universe/sophon.
PUBLISHED = {
    "log_pt": (1.7, 0.7, -5, 5),
    "log_energy": (2.0, 0.7, -5, 5),
    "log_pt_rel": (-4.7, 0.7, -5, 5),
    "log_energy_rel": (-4.7, 0.7, -5, 5),
    "delta_r": (0.2, 4.0, -5, 5),
    "charge": None,
    "is_charged_hadron": None,
    "is_neutral_hadron": None,
    "is_photon": None,
    "is_electron": None,
    "is_muon": None,
    "tanh_d0": None,
    "d0_error": (0, 1, 0, 1),
    "tanh_dz": None,
    "dz_error": (0, 1, 0, 1),
    "deta": None,
    "dphi": None,
}
FULL = tuple(PUBLISHED)
KINPID = tuple(name for name in FULL if name not in TRACK)
KIN = tuple(name for name in KINPID if name not in UNSCALED)


def inputs(
    jets: ak.Array,
    features: Iterable[str] = FULL,
    *,
    scaler: Scaler | None = None,
    jet_pt: float | None = None,
) -> Batch:
    """Inputs of `ParticleTransformer`: features of all constituents and their momenta, as packed
    batch.

    jets: N jets. features: F names of `PUBLISHED`, `FULL`, `KINPID` and `KIN` for the public models
    of these names; standardised as published, with deta mirrored where the jet has negative eta, as
    in the files of JetClass. With a `scaler` its features are taken, with its numbers, and nothing
    is mirrored or clipped. jet_pt: GeV that all jets are scaled to, 500 for Sophon; None leaves
    them. All constituents are taken, where the public models saw the first 128.

    Returns `Batch(x (T, F + 4) float32, offsets (N+1,) int64)`; the last four columns are px, py,
    pz and energy in GeV. Raises `ValueError` as `inputs.compute`, and for a feature that has no
    published numbers. arXiv:2202.03772, 2405.12972.

    >>> import jetnb
    >>> x, offsets = inputs(jetnb.load("jetclass")[:10], KIN)
    >>> x.shape == (offsets[-1], 7 + 4)
    True
    """
    features = scaler.features if scaler else tuple(features)
    if not scaler and (unknown := [name for name in features if name not in PUBLISHED]):
        raise ValueError(
            f"features: {unknown[0]!r} was not published: use some of {', '.join(PUBLISHED)}, or a scaler"
        )
    x, offsets = compute(jets, features)
    counts = np.diff(offsets)
    factor = np.repeat(
        1.0 if jet_pt is None else jet_pt / ak.to_numpy(jets.pt), counts if jet_pt else len(x)
    )
    for i, name in enumerate(features):
        if name in ("log_pt", "log_energy"):
            x[:, i] += np.log(factor)
        if scaler:
            continue
        if name == "deta":
            x[:, i] *= np.repeat(np.where(ak.to_numpy(jets.eta) > 0, 1, -1), counts)
        if PUBLISHED[name]:
            shift, scale, low, high = PUBLISHED[name]
            x[:, i] = np.clip((x[:, i] - shift) * scale, low, high)
    pt, eta, phi, energy = (
        plain(f"constituents.{name}", ak.flatten(jets.constituents[name])).astype(np.float64)
        for name in ("pt", "eta", "phi", "energy")
    )
    momenta = np.column_stack([*kinematics.to_cartesian(pt, eta, phi), energy]) * factor[:, None]
    return Batch(
        np.column_stack([scaler.transform(x) if scaler else x, momenta.astype(np.float32)]), offsets
    )


class ParticleTransformer(nn.Module):
    """Particle Transformer on packed jets: attention with a bias from each pair's momenta, then
    class attention.

    n_features: F, without the momenta. embed_dims: widths of the MLP on features, the last is D, a
    multiple of 8 times n_heads. pair_dims: widths of the MLP on ln kT, ln z, ln DeltaR and ln m2 of
    pairs, before the one bias per head. n_layers, n_class_layers: blocks among constituents, and of
    the jet token. dropout: in the former. step: as in `Transformer`, but None is 32 on a GPU.
    scaler: None where x has four columns more, momenta px, py, pz, energy in GeV as `inputs` makes
    them. With the `Scaler` of the features, x is (T, F), and momenta are those of massless
    constituents relative to the jet axis, from the features log_pt, deta and dphi: pairs do not
    notice that the axis is another.

    Defaults and names of parameters are those of the public models, see `load_public`. Batch norms
    see the constituents and pairs there are, no padding. A jet without constituents gets what the
    jet token becomes alone; no gradient goes into momenta. Raises `ValueError` for sizes that do
    not fit. arXiv:2202.03772; class attention arXiv:2103.17239, scalings arXiv:2110.09456.

    >>> encoder = ParticleTransformer(7, embed_dims=(32, 32), pair_dims=(8,), n_layers=1, n_heads=4)
    >>> constituents, jets = encoder(torch.rand(9, 7 + 4), torch.tensor([0, 5, 9]))
    >>> constituents.shape, jets.shape
    (torch.Size([9, 32]), torch.Size([2, 32]))
    """

    def __init__(
        self,
        n_features: int,
        *,
        embed_dims: Sequence[int] = (128, 512, 128),
        pair_dims: Sequence[int] = (64, 64, 64),
        n_layers: int = 8,
        n_class_layers: int = 2,
        n_heads: int = 8,
        expansion: int = 4,
        dropout: float = 0.1,
        scaler: Scaler | None = None,
        step: int | None = None,
    ):
        super().__init__()
        sizes = (
            n_features,
            *embed_dims,
            *pair_dims,
            n_layers,
            n_class_layers,
            n_heads,
            expansion,
            step or 1,
        )
        if min(sizes) < 1 or not embed_dims or not pair_dims:
            raise ValueError(f"all sizes must be at least 1, got {sizes}")
        self.n_features, self.dim, self.step, self.scaler = n_features, embed_dims[-1], step, scaler
        check_heads(self.dim, n_heads, "the last of embed_dims")
        if scaler and not (
            {"log_pt", "deta", "dphi"} <= set(scaler.features)
            and len(scaler.features) == n_features
        ):
            raise ValueError(
                f"scaler is of {', '.join(scaler.features)}, but must be of n_features = {n_features} "
                "features with log_pt, deta and dphi: use theirs, or leave it out and give momenta"
            )
        self.embed = nn.Module()
        self.embed.input_bn = nn.BatchNorm1d(n_features)
        self.embed.embed = nn.Sequential(
            *(
                layer
                for n_in, n_out in pairwise((n_features, *embed_dims))
                for layer in (nn.LayerNorm(n_in), Linear(n_in, n_out), nn.GELU())
            )
        )
        self.pair_embed = PairEmbed((4, *pair_dims, n_heads))
        self.blocks = nn.ModuleList(
            _Block(self.dim, n_heads, expansion, dropout) for _ in range(n_layers)
        )
        self.cls_blocks = nn.ModuleList(
            _Block(self.dim, n_heads, expansion, 0.0) for _ in range(n_class_layers)
        )
        self.norm = nn.LayerNorm(self.dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.dim))
        self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in (*self.blocks, *self.cls_blocks):
            # Query, key and value are three matrices in one.
            for part in block.attn.in_proj.weight.data.chunk(3):
                nn.init.xavier_uniform_(part)
        for depth, block in enumerate(self.blocks, start=1):
            for layer in (block.attn.out_proj, block.fc2):
                layer.weight.data /= math.sqrt(2 * depth)

    def forward(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, F + 4), with a scaler (T, F), offsets (B+1,) int64 -> constituents (T, D), jets (B,
        D).
        """
        lengths = _packed.check(x, offsets, self.n_features + (0 if self.scaler else 4))
        cut = plan(lengths, x, n_heads=1, step=self.step, biased=True)
        biases = self.pair_embed(self._momenta(x), cut)
        h = self.embed.embed(normalise(self.embed.input_bn, x[:, : self.n_features]))  # (T, D)
        h = arrange(h, cut)  # (S, D)
        for block in self.blocks:
            h = block(h, cut, biases)
        h = restore(h, cut)  # (T, D)
        jet, jets = _packed.jet_of(lengths, x.device), self.cls_token[0].repeat(len(lengths), 1)
        for block in self.cls_blocks:
            jets = block.pool(jets, h, jet)  # (B, D)
        return self.norm(h), self.norm(jets)

    def _momenta(self, x: Tensor) -> Tensor:
        """px, py, pz, energy (T, 4)."""
        x = _packed.wide(x)
        if not self.scaler:
            return x[:, self.n_features :]
        log_pt, eta, phi = (
            x[:, i] * self.scaler.width[i] + self.scaler.mean[i]
            for i in (self.scaler.features.index(name) for name in ("log_pt", "deta", "dphi"))
        )
        return massless(log_pt.exp(), eta, phi)


class _Block(Regions):
    """Attention, then an MLP, each normed before and after; heads and the second shortcut are
    scaled.
    """

    def __init__(self, dim: int, n_heads: int, expansion: int, dropout: float):
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.pre_attn_norm, self.post_attn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.Module()
        self.attn.in_proj, self.attn.out_proj = Linear(dim, 3 * dim), Linear(dim, dim)
        self.pre_fc_norm, self.post_fc_norm = nn.LayerNorm(dim), nn.LayerNorm(expansion * dim)
        self.fc1, self.fc2 = Linear(dim, expansion * dim), Linear(expansion * dim, dim)
        self.c_attn, self.w_resid = nn.Parameter(torch.ones(n_heads)), nn.Parameter(torch.ones(dim))

    def forward(self, h: Tensor, plan: _packed.LengthBuckets, biases: list[Tensor]) -> Tensor:
        """Attention within each jet, h (S, D) -> (S, D)."""
        attended = attend(
            self.region(_Block._begin, h),
            plan,
            self.n_heads,
            biases=biases,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.region(_Block._finish, h, attended)

    def pool(self, token: Tensor, h: Tensor, jet: Tensor) -> Tensor:
        """Attention of the token of each jet (B, D) to itself and the constituents h (T, D) of its
        jet -> (B, D).
        """
        n_jets, (dim, heads) = len(token), (token.shape[1], self.n_heads)
        rows = self.pre_attn_norm(torch.cat([h, token.to(h.dtype)]))  # (T + B, D)
        jet = torch.cat([jet, torch.arange(n_jets, device=jet.device)])
        weight, bias = self.attn.in_proj.weight, self.attn.in_proj.bias
        query = linear(token, weight[:dim], bias[:dim])  # not normed, as published
        key, value = linear(rows, weight[dim:], bias[dim:]).unflatten(1, (2, heads, -1)).unbind(1)
        score = (_packed.wide(key) * query.unflatten(1, (heads, -1))[jet]).sum(-1) / (
            dim / heads
        ) ** 0.5
        return self.region(_Block._finish, token, _packed.weigh(score, value, jet, n_jets))

    def _begin(self, h: Tensor) -> Tensor:
        return self.attn.in_proj(self.pre_attn_norm(h))

    def _finish(self, h: Tensor, attended: Tensor) -> Tensor:
        scale, out = self.c_attn.repeat_interleave(h.shape[1] // self.n_heads), self.attn.out_proj
        # As scaling the result.
        attended = linear(attended, out.weight * scale[:, None], out.bias * scale)
        h = h + self._drop(self.post_attn_norm(attended))
        hidden = self._drop(F.gelu(self.fc1(self.pre_fc_norm(h))))
        return torch.addcmul(self._drop(self.fc2(self.post_fc_norm(hidden))), h, self.w_resid)

    def _drop(self, h: Tensor) -> Tensor:
        return drop(h, self.dropout) if self.training else h


def load_public(
    source: str | Path | Mapping[str, Tensor],
) -> tuple[ParticleTransformer, nn.Sequential | None]:
    """The encoder and the head of a public Particle Transformer or Sophon, sizes read off the
    weights.

    source: a .pt file, opened without running what may be in it, or its state dict: as saved from
    the wrappers in github.com/jet-universe/particle_transformer or sophon (names with "mod.",
    attention of either age of weaver-core), or from weaver's ParticleTransformer itself. Returns
    encoder, and head (B, D) -> (B, C) or None where there is none; `Classifier(encoder, head)`
    trains both. 10 classes of JetClass for ParT, 188 of JetClass-II for Sophon. Raises
    `FileNotFoundError`, and `ValueError` for what is no file of weights, naming the file, and
    naming what is missing, left over, or of another shape.

    arXiv:2202.03772, 2405.12972.
    """
    state = source if isinstance(source, Mapping) else _weights(Path(source))
    if not state or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        where = "source" if source is state else source
        inside = ", ".join(map(str, list(state)[:5])) or "nothing"
        raise ValueError(
            f"{where} holds no state dict, from names to tensors, but {inside}: give the state dict "
            "itself, for example torch.load(FILE)['model']"
        )
    state = {
        name.removeprefix("module.").removeprefix("mod.").replace("in_proj_", "in_proj."): value
        for name, value in state.items()
    }
    layers = [name for name in state if name.startswith("fc.") and name.endswith("weight")]
    fc = {name[3:]: state.pop(name) for name in list(state) if name.startswith("fc.")}
    depth = {
        part: len({name.split(".")[1] for name in state if name.startswith(f"{part}.")})
        for part in ("blocks", "cls_blocks")
    }
    try:
        embed_dims, pair_dims = (
            [
                len(value)
                for name, value in state.items()
                if name.startswith(f"{part}.embed.") and value.ndim == ndim
            ]
            for part, ndim in (("embed", 2), ("pair_embed", 3))
        )
        encoder = ParticleTransformer(
            len(state["embed.input_bn.weight"]),
            embed_dims=embed_dims,
            pair_dims=pair_dims[:-1],
            n_layers=depth["blocks"],
            n_class_layers=depth["cls_blocks"],
            n_heads=pair_dims[-1],
            expansion=len(state["blocks.0.fc1.weight"]) // embed_dims[-1],
        )
        encoder.load_state_dict(state)
        head = nn.Sequential()
        for name in layers:
            n_out, n_in = fc[name[3:]].shape
            layer = nn.Linear(n_in, n_out)
            head.append(
                layer if name.count(".") == 2 else nn.Sequential(layer, nn.ReLU(), nn.Dropout(0.1))
            )
        head.load_state_dict(fc)
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"these are no weights of version 1 of weaver's ParticleTransformer: {error}"
        ) from error
    return encoder, head if layers else None


def _weights(path: Path) -> Mapping[str, Tensor]:
    """What torch.save wrote to `path`, without running what may be in it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the .pt file of the weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # of many types, from torch, zipfile and pickle
        reason = str(error).strip().partition(". ")[0][:200]
        raise ValueError(
            f"{path} is no file of weights that torch.save wrote, it is damaged, or it holds more than "
            f"tensors ({type(error).__name__}: {reason}): download it again"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(
            f"{path} holds a {type(state).__name__}, not a state dict, from names to tensors: it is of "
            "another model, or a part of one"
        )
    return state
