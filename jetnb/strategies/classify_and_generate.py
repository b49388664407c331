"""One encoder, two heads: tell the classes of jets, and make new ones by flow matching.

The encoder sees clean jets and noised ones. From both, one head tells the class, where noised jets
count the less the more noise is in them. From noised ones, the other head tells how each
constituent has to move to become a jet again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import awkward as ak
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import inputs, packed
from jetnb.hardware import send
from jetnb.inputs.features import TABLE
from jetnb.models import _packed, across, flow, heads
from jetnb.models.encoder import Transformer
from jetnb.models.particles import ENCODER, HAS_TRACK, FromParticles, from_settings, massless
from jetnb.packed import Batch
from jetnb.strategies.contrastive import spread
from jetnb.strategies.supervised import Labels

CORE = 0.05  # rad: within it angles are as they are, beyond it as their logarithm
N_KINEMATIC = 3  # columns of particles that are made and noised: pt, deta, dphi
WEIGHTS = {"clean": 1.0, "noised": 1.0, "generate": 1.0}


class Coordinates(nn.Module):
    """Constituents as numbers of width one, and back: log of the share in the jet's pt, asinh of
    deta and of dphi.
    """

    def __init__(self):
        super().__init__()
        for name, value in (("mean", 0.0), ("width", 1.0), ("low", -9.0), ("high", 9.0)):
            self.register_buffer(name, torch.full((N_KINEMATIC,), value))

    def fit(self, particles: Tensor, jet_pt: Tensor) -> None:
        """Set the scaling to particles (T, 3) of jets with jet_pt (T,), that of the jet of each."""
        y = self._raw(particles, jet_pt).double()
        self.low.copy_(y.amin(0))
        self.high.copy_(y.amax(0))
        self.mean.copy_(y.mean(0))
        self.width.copy_(y.std(0, correction=0).clamp(min=1e-6))

    def forward(self, particles: Tensor, jet_pt: Tensor) -> Tensor:
        """Particles (T, 3) of pt [GeV], deta, dphi, jet_pt (T,) -> (T, 3)."""
        return (self._raw(particles, jet_pt) - self.mean) / self.width

    def back(self, y: Tensor, jet_pt: Tensor, *, within: bool = False) -> Tensor:
        """The inverse. within: no constituent beyond what was seen in training."""
        y = y * self.width + self.mean
        if within:
            y = torch.maximum(torch.minimum(y, self.high), self.low)
        return torch.cat([(y[:, :1].exp() * jet_pt[:, None]), CORE * y[:, 1:].sinh()], 1)

    @staticmethod
    def _raw(particles: Tensor, jet_pt: Tensor) -> Tensor:
        share = (particles[:, 0] / jet_pt).log()
        return torch.cat([share[:, None], (particles[:, 1:N_KINEMATIC] / CORE).asinh()], 1)


class Velocity(nn.Module):
    """How each constituent of a noised jet moves: from what the encoder makes of it, where it is,
    the time, the jet's kinematics and its class.
    """

    def __init__(self, dim_in: int, n_classes: int, *, dim: int, n_layers: int, n_heads: int):
        super().__init__()
        self.kind = nn.Embedding(n_classes + 1, 16)  # the first is unknown
        n_given = 2 * flow.FREQUENCIES + len(flow.KINEMATICS) + 16
        self.given = heads.mlp(n_given, dim, hidden=(dim,))
        self.body = Transformer(
            dim_in + N_KINEMATIC + dim, dim=dim, n_layers=n_layers, n_heads=n_heads
        )
        self.out = nn.Linear(dim, N_KINEMATIC)

    def forward(
        self, h: Tensor, y: Tensor, offsets: Tensor, t: Tensor, jets: Tensor, label: Tensor
    ) -> Tensor:
        """h (T, D) of the encoder, y (T, 3), t (B,), jets (B, 3) normal numbers of `KINEMATICS`,
        label (B,) -> (T, 3).
        """
        given = self.given(torch.cat([flow.waves(t), jets, self.kind(label + 1)], 1))  # (B, dim)
        jet = _packed.jet_of(np.diff(np.asarray(torch.as_tensor(offsets).cpu())), y.device)
        found, _ = self.body(torch.cat([h.to(y.dtype), y, given[jet]], 1), offsets)
        return self.out(found)


class ClassifyAndGenerate(nn.Module):
    """Classification and generation in one network.

    The loss is the sum of three, times `weights`: cross-entropy of clean jets ("clean"); that of
    jets noised up to a time t in [0, 1), times (1 - t)^2 ("noised"); and flow matching of
    constituents, with that of the small model of jet kinematics ("generate"). What has weight 0 is
    not computed. encoder: of particles; it is not told the time, which the noise in some tens of
    constituents gives away (2502.13129), so that it is the network that all strategies have.
    labels: see `supervised.Labels`; a jet with label -1 counts for generation alone. drop:
    probability, for each jet and group of extra features (types, tracks), to see clean jets without
    it; noised jets never have any, since only kinematics are made: so the network works with
    kinematics alone. evaluations: of the sampler, see `flow.follow`. Raises `ValueError` for
    weights and a drop that do not fit. arXiv:2404.16091, 2510.24066; one time for each jet.
    """

    TITLE = "classification and generation, arXiv:2404.16091"
    SETTINGS = {
        "encoder": ENCODER,
        "extras": [],
        "generator": {"dim": 64, "n_layers": 2, "n_heads": 4},
        "hardest": 40,
        "label": "label",
        "n_classes": 10,
        "balance": 0.0,
        "weights": WEIGHTS,
        "drop": 0.1,
        "evaluations": 64,
    }

    def __init__(
        self,
        encoder: FromParticles,
        labels: Labels,
        *,
        generator: Mapping,
        weights: Mapping = WEIGHTS,
        drop: float = 0.1,
        evaluations: int = 64,
    ):
        super().__init__()
        if set(weights) != set(WEIGHTS) or min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(
                f"weights is {dict(weights)}: give {', '.join(WEIGHTS)}, none negative and not all 0"
            )
        if not 0 <= drop < 1:
            raise ValueError(f"drop is {drop}: it is a probability, from 0 to below 1")
        self.encoder, self.labels, self.jet_fields = encoder, labels, labels.jet_fields
        self.weights, self.drop, self.evaluations = dict(weights), drop, evaluations
        self.extras = tuple(getattr(encoder, "extras", ()))
        self.head = heads.linear(encoder.dim, labels.n_classes)
        self.coordinates = Coordinates()
        self.kinematics = flow.Kinematics(labels.n_classes)
        self.velocity = Velocity(encoder.dim, labels.n_classes, **generator)
        self.register_buffer("share", torch.full((labels.n_classes,), 1 / labels.n_classes))
        self._last: dict[str, Tensor] = {}

    @classmethod
    def make(
        cls,
        *,
        encoder: Mapping,
        extras: Sequence[str],
        hardest: int | None,
        label: str,
        n_classes: int | None,
        balance: float,
        **options,
    ) -> ClassifyAndGenerate:
        """For `pretraining.pretrain`: a transformer of particles."""
        body = from_settings(encoder, extras=extras)
        model = cls(body, Labels(label, n_classes, balance), **options)
        model.hardest = hardest
        return model

    def fit(self, data, *, seed: int) -> ClassifyAndGenerate:
        """Set scalings, the weights of classes, and how often each is drawn, to training jets;
        returns self.
        """
        x, offsets = torch.from_numpy(data.x), torch.from_numpy(data.offsets)
        self.encoder.fit(data.x, data.offsets)
        self.labels.fit(data)
        label = self.labels(tuple(torch.as_tensor(one) for one in data.targets))
        counts = torch.bincount(label[label >= 0], minlength=len(self.share))
        self.share.copy_(counts / counts.sum().clamp(min=1))
        jets, jet = kinematics_of(x, offsets)
        keep = np.diff(data.offsets) > 0
        self.kinematics.to_normal.fit(jets[torch.from_numpy(keep)])
        self.coordinates.fit(x[:, :N_KINEMATIC], jets[:, 0][jet])
        return self

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Loss of a batch, a scalar: particles (T, 3 + E), offsets, and the targets that are named
        in `jet_fields`.

        generator draws times, noise, and which features are dropped; None is torch's global one.
        Raises `ValueError` for a malformed batch and labels that are no classes.
        """
        x, offsets, *targets = batch
        label, offsets = self.labels(targets), torch.as_tensor(offsets)
        n_jets, clean = len(offsets) - 1, bool(self.weights["clean"])
        noisy = bool(self.weights["noised"] or self.weights["generate"])
        given, self._last = [], {}
        if clean:
            given.append(self._dropped(x, offsets, generator))
        if noisy:
            jets, jet = kinematics_of(x, offsets)  # (B, 3), (T,)
            t = flow.uniform(jets[:, 0], generator)  # (B,)
            y = self.coordinates(x[:, :N_KINEMATIC], jets[:, 0][jet])
            y, target = flow.noised(y, flow.normal(y, generator), t[jet])
            given.append(self.bare(self.coordinates.back(y, jets[:, 0][jet])))
        many = torch.cat([offsets + i * offsets[-1] for i in range(len(given))])
        many = many[torch.arange(len(many)) % (n_jets + 1) > 0]  # ends of all jets
        h, z = self.encoder(torch.cat(given), torch.cat([many.new_zeros(1), many]))
        logits = self.head(z)
        self._last |= {"jets": z[-n_jets:].detach(), "label": label}
        loss = logits.new_zeros(())
        if clean:
            loss = loss + self.weights["clean"] * self._tell("clean", logits[:n_jets], label).mean()
        if self.weights["noised"]:
            each = (1 - t).square() * self._tell("noised", logits[-n_jets:], label)
            loss = loss + self.weights["noised"] * each.mean()
        if self.weights["generate"]:
            normal = self.kinematics.to_normal(jets)
            found = self.velocity(h[-len(x) :], y, offsets, t, normal, label)
            self._last |= {"found": found.detach(), "target": target}
            whole = self.kinematics.loss(jets, label, generator=generator)
            each = across.mean(F.mse_loss(_packed.wide(found), target), len(target))
            loss = loss + self.weights["generate"] * (each + whole)
        return loss

    def monitors(self) -> dict[str, float]:
        """What the last batch of `loss` says: `accuracy` of clean and of noised jets, `explained`,
        the share of the variance of velocities that is found, `rank` and `variance` of the vectors
        of jets.

        Only what was computed; a label of -1 counts as not told. Raises RuntimeError before the
        first loss.
        """
        if not self._last:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        last, found = self._last, spread(self._last["jets"])
        for name, key in (("accuracy", "clean"), ("accuracy_noised", "noised")):
            if key in last:
                found[name] = float((last[key].argmax(1) == last["label"]).double().mean())
        if "found" in last:
            missed = (last["found"].double() - last["target"]).square().mean()
            found["explained"] = float(1 - missed / last["target"].double().var(correction=0))
        return found

    @torch.no_grad()
    def draw(
        self,
        n_jets: int,
        *,
        seed: int,
        provenance: Mapping,
        labels=None,
        evaluations: int | None = None,
        batch_size: int = 512,
    ) -> ak.Array:
        """New jets about the axis eta = phi = 0, with the field label where classes are those of
        the sample.

        First the class, as often as in training, then momentum, mass and number of constituents
        from the small model, then the constituents. seed: jets are a function of it, and not of
        `batch_size`, up to rounding. provenance: of the jets that it was trained on; what returns
        says that it is generated, and from which. labels: one class, or one for each jet.
        evaluations: of the network for each jet; None is that of the settings. Raises `ValueError`
        for labels that are no classes.
        """
        device, training = self.share.device, self.training
        evaluations = evaluations or self.evaluations
        numbers = torch.Generator().manual_seed(seed)
        label = self._classes(labels, n_jets, numbers)
        start = torch.randn(n_jets, len(flow.KINEMATICS), generator=numbers)
        self.eval()
        try:
            jets = self.kinematics.draw(label.to(device), start.to(device), evaluations=evaluations)
            counts = jets[:, 2].long().cpu().numpy()
            offsets = packed.starts(counts)
            noise, made = torch.randn(int(offsets[-1]), N_KINEMATIC, generator=numbers), []
            for first in range(0, n_jets, batch_size):
                last = min(first + batch_size, n_jets)
                part = noise[offsets[first] : offsets[last]].to(device)
                bounds = torch.from_numpy(offsets[first : last + 1] - offsets[first])
                made.append(
                    self._fill(part, bounds, jets[first:last], label[first:last], evaluations)
                )
        finally:
            self.train(training)
        about = {
            **provenance,
            "source": "generated",
            "stamp": f"generated, learned from {provenance['sample']}",
        }
        x = torch.cat(made).double().numpy() if made else np.empty((0, N_KINEMATIC))
        found = inputs.from_relative(Batch(x, offsets), provenance=about)
        if self.labels.label != "label":
            return found
        return ak.with_field(found, label.numpy().astype(np.int16), "label")

    def _fill(self, noise: Tensor, offsets: Tensor, jets: Tensor, label: Tensor, evaluations: int):
        """Constituents (T, 3) of jets (B, 3) with label (B,), from noise (T, 3)."""
        jet = _packed.jet_of(np.diff(offsets.numpy()), noise.device)
        jet_pt, label = jets[:, 0][jet], label.to(noise.device)
        normal = self.kinematics.to_normal(jets)  # whole numbers of constituents, as in the loss

        def velocity(y, t):
            h, _ = self.encoder(self.bare(self.coordinates.back(y, jet_pt)), offsets)
            t = torch.full_like(normal[:, 0], t)
            return self.velocity(h, y, offsets, t, normal, label)

        found = flow.follow(velocity, noise, evaluations=evaluations)
        return self.coordinates.back(found, jet_pt, within=True).cpu()

    def _classes(self, labels, n_jets: int, numbers: torch.Generator) -> Tensor:
        """Class (n_jets,) of each jet to draw."""
        if labels is None:
            share = self.share.cpu()
            if n_jets == 0:
                return torch.zeros(0, dtype=torch.int64)
            return torch.multinomial(share, n_jets, replacement=True, generator=numbers)
        label = torch.from_numpy(np.broadcast_to(np.asarray(labels), n_jets).astype(np.int64))
        if n_jets and (label.min() < -1 or label.max() >= len(self.share)):
            raise ValueError(
                f"labels run from {label.min()} to {label.max()}, but there are {len(self.share)} classes, "
                "from 0, and -1 for unknown"
            )
        return label

    def _tell(self, name: str, logits: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy (B,) of jets, 0 for unlabelled ones."""
        self._last[name] = logits.detach()
        return self.labels.cross_entropy(logits, label.clamp(min=0)) * (label >= 0)

    def bare(self, particles: Tensor) -> Tensor:
        """Particles (T, 3 + E) of which the encoder is told nothing but the kinematics, from those or
        from (T, 3).

        The other features get their mean in training jets, those of tracks as if all had one: so it
        shows that they are missing, and the network learned what to do then.
        """
        mean = self.encoder.mean
        rest = [
            torch.ones_like(mean[0])
            if name == HAS_TRACK
            else mean[self.encoder.features.index(name)]
            for name in self.extras
        ]
        kept = particles[:, :N_KINEMATIC]
        if not rest:
            return kept
        return torch.cat([kept, torch.stack(rest).to(kept.dtype).expand(len(kept), -1)], 1)

    def _dropped(self, x: Tensor, offsets: Tensor, generator: torch.Generator | None) -> Tensor:
        """Particles (T, 3 + E), in training with groups of extra features dropped for some jets."""
        if not (self.extras and self.training and self.drop):
            return x
        jet = _packed.jet_of(np.diff(np.asarray(offsets.cpu())), x.device)
        groups = list(dict.fromkeys(map(group_of, self.extras)))
        like = x.new_empty(len(offsets) - 1, len(groups))
        gone = flow.uniform(like, generator) < self.drop  # (B, groups)
        of = [groups.index(group_of(name)) for name in self.extras]
        lost = F.pad(torch.stack([gone[:, i] for i in of], 1), (N_KINEMATIC, 0))[jet]  # (T, 3 + E)
        return torch.where(lost, self.bare(x), x)


def group_of(feature: str) -> str:
    """The group that a feature of constituents is dropped with: "types", "tracks" or "others"."""
    if feature == "charge" or feature.startswith("is_"):
        return "types"
    return "tracks" if feature in TABLE and HAS_TRACK in TABLE[feature].needs else "others"


def kinematics_of(x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """`flow.KINEMATICS` (B, 3) of jets of massless particles (T, 3), and the jet of each (T,)."""
    lengths = np.diff(np.asarray(torch.as_tensor(offsets).cpu()))
    jet = _packed.jet_of(lengths, x.device)
    parts = massless(*_packed.wide(x[:, :N_KINEMATIC]).unbind(1))
    px, py, pz, energy = _packed.total(parts, jet, len(lengths)).unbind(1)
    mass = (energy.square() - px.square() - py.square() - pz.square()).clamp(min=0).sqrt()
    number = send(torch.from_numpy(lengths), px.device).to(px.dtype)
    return torch.stack([torch.hypot(px, py), mass, number], 1), jet
