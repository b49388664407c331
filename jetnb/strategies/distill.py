"""Distillation: a small network learns what larger ones, or several, say of each jet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import checkpoints
from jetnb.models import heads
from jetnb.models._packed import wide
from jetnb.models.particles import ENCODER, from_settings
from jetnb.strategies.supervised import Labels, Supervised, spread


def distillation(
    student: Tensor, teachers: Sequence[Tensor], *, temperature: float = 4.0
) -> Tensor:
    """How far a student's probabilities are from the mean of its teachers', jet by jet: (B,) nats.

    student (B, C), teachers (B, C) each: logits, all of which are divided by `temperature`, so that
    what is unlikely counts, too. Kullback-Leibler divergence of the teachers from the student, times
    the temperature squared, so that gradients keep their size. At least float32. Raises ValueError
    for no teachers, other shapes and a temperature that is not positive. Source: 1503.02531, section
    2.

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> distillation(logits, [logits]).abs().max() < 1e-6
    tensor(True)
    """
    if not teachers or any(one.shape != student.shape for one in teachers) or not temperature > 0:
        raise ValueError(
            f"student has shape {tuple(student.shape)}, teachers {[tuple(one.shape) for one in teachers]}, "
            f"temperature is {temperature}: all must be logits (B, C) of the same classes, and it positive"
        )
    with torch.autocast(student.device.type, enabled=False):
        said = (wide(student) / temperature).log_softmax(1)
        told = torch.stack([(wide(one) / temperature).softmax(1) for one in teachers]).mean(0)
        return F.kl_div(said, told, reduction="none").sum(1) * temperature**2


class Distill(nn.Module):
    """An encoder of particles that learns the probabilities of teachers, networks trained with
    labels.

    teachers: folders of checkpoints of the strategy "supervised", one or several, which tell the
    same classes; they are read by `fit`, so a student comes back without them. temperature: see
    `distillation`. labels: how much of the loss is cross-entropy with true labels; 0 needs none, so
    that jets may be data. Teachers see the same constituents and features as the student. arXiv:1503.02531.
    """

    TITLE = "distillation, arXiv:1503.02531"
    SETTINGS = {
        "teachers": [],
        "encoder": {**ENCODER, "dim": 16, "n_layers": 1, "n_heads": 2},
        "extras": [],
        "hardest": 40,
        "temperature": 4.0,
        "labels": 0.0,
        "label": "label",
        "n_classes": 10,
    }

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        labels: Labels,
        *,
        teachers: Sequence = (),
        temperature: float = 4.0,
        share: float = 0.0,
    ):
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(
                f"labels is {share}: it is a share of the loss, from 0 to below 1; with 1 there is no "
                "distillation: use the strategy 'supervised'"
            )
        self.encoder, self.head, self.labels, self.paths = encoder, head, labels, list(teachers)
        self.temperature, self.share = temperature, share
        self.extras = tuple(getattr(encoder, "extras", ()))
        if share:
            self.jet_fields = labels.jet_fields
        # Not modules of this one: a checkpoint of the student is small.
        self._teachers: list[nn.Module] = []
        self._cards: list[dict] = []
        self._last: tuple[Tensor, ...] | None = None

    @classmethod
    def make(
        cls,
        *,
        teachers: Sequence,
        encoder: Mapping,
        extras: Sequence[str],
        hardest: int | None,
        temperature: float,
        labels: float,
        label: str,
        n_classes: int | None,
    ) -> Distill:
        """For `pretraining.pretrain`: a transformer of particles and a linear head."""
        body, classes = from_settings(encoder, extras=extras), Labels(label, n_classes)
        model = cls(
            body,
            heads.linear(body.dim, classes.n_classes),
            classes,
            teachers=teachers,
            temperature=temperature,
            share=labels,
        )
        model.hardest = hardest
        model.settings = {
            "encoder": dict(encoder),
            "extras": list(extras),
            "hardest": hardest,
            "temperature": temperature,
            "labels": labels,
            "label": label,
            "n_classes": n_classes,
        }
        return model

    def fit(self, data, *, seed: int) -> Distill:
        """Read the teachers, and set the scaling of the encoder's inputs to training jets; returns
        self.

        Raises `ValueError` for no teachers, and for one that tells another number of classes; as
        `load_teacher` for what is none.
        """
        if not self.paths:
            raise ValueError(
                "settings: distill needs teachers, one or more checkpoints pretrained with 'supervised'"
            )
        found = [load_teacher(path) for path in self.paths]
        for path, (teacher, _) in zip(self.paths, found, strict=True):
            if teacher.extras != self.extras:
                raise ValueError(
                    f"teachers: {path} reads {list(teacher.extras)} besides kinematics, the student "
                    f"{list(self.extras)}: set extras to those of the teachers"
                )
            n_classes = teacher.head.out_features
            if n_classes != self.head.out_features:
                raise ValueError(
                    f"teachers: {path} tells {n_classes} classes, the student {self.head.out_features}: set "
                    "label and n_classes to those of the teachers"
                )
        self._teachers = [teacher.requires_grad_(False) for teacher, _ in found]
        self._cards = [card for _, card in found]
        self.encoder.fit(data.x, data.offsets)
        return self

    def card(self) -> dict:
        """What a checkpoint says of it: the settings but for where its teachers were, and who they
        were.
        """
        names = ("strategy", "encoder", "settings", "data", "jets", "trained")
        return {
            "settings": {**self.settings, "teachers": []},
            "encoder": self.settings["encoder"],
            "hardest": self.settings["hardest"],
            "teachers": [{key: one[key] for key in names if key in one} for one in self._cards],
        }

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean loss of a batch, a scalar: particles and offsets, with labels > 0 the targets that
        are named in `jet_fields`.

        generator: not used. Raises `RuntimeError` before `fit`.
        """
        if not self._teachers:
            raise RuntimeError("there are no teachers: call fit(data, seed=...) first")
        x, offsets, *targets = batch
        _, jets = self.encoder(x, offsets)
        logits = self.head(jets)
        with torch.no_grad():
            said = [teacher.to(x.device, x.dtype).eval()(x, offsets) for teacher in self._teachers]
        loss = distillation(logits, said, temperature=self.temperature).mean()
        if self.share:
            own = self.labels.cross_entropy(logits, self.labels(targets)).mean()
            loss = (1 - self.share) * loss + self.share * own
        self._last = jets.detach(), logits.detach(), torch.stack(said).softmax(2).mean(0)
        return loss

    def monitors(self) -> dict[str, float]:
        """What the last batch of `loss` says: `agreement`, the share of jets that student and
        teachers put into the same class, and `rank` and `variance` of the student's vectors.

        Raises RuntimeError before the first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        jets, logits, told = self._last
        agree = (logits.argmax(1) == told.argmax(1)).double().mean()
        return {"agreement": float(agree), **spread(jets)}


def load_teacher(path) -> tuple[heads.Classifier, dict]:
    """The network with its head of a checkpoint of the strategy "supervised", in evaluation mode,
    and its card.

    Raises as `checkpoints.restore` for what is no checkpoint, and `ValueError` for one of another
    strategy.
    """
    card = checkpoints.read_card(path)
    if "settings" in card:  # as `pretraining.pretrain` writes them
        if card.get("pretrained_by") != "supervised":
            raise ValueError(
                f"teachers: {path} was pretrained by {card.get('pretrained_by')!r}, but a teacher needs a head "
                "of classes: use one pretrained with 'supervised'"
            )
        return checkpoints.restore(path, _teacher, name="settings")
    return checkpoints.restore(path, _ten_classes, name="encoder")


def _teacher(settings: Mapping, *, seed: int) -> Supervised:
    with torch.random.fork_rng(devices=[]):  # its weights are those of the checkpoint
        return Supervised.make(**settings)


def _ten_classes(encoder: Mapping, *, seed: int) -> Supervised:
    return _teacher({"encoder": encoder, "hardest": None, "n_classes": 10}, seed=seed)
