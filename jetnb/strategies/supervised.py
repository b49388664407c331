"""Supervised pretraining: the classes of a labelled sample, as a ceiling for what does without
labels.
"""

from __future__ import annotations

from collections.abc import Mapping

from jetnb.models import heads
from jetnb.models.particles import ENCODER, from_settings


class Supervised(heads.Classifier):
    """An encoder of particles that learns to tell the classes of its sample. arXiv:2202.03772
    (section 5.3).
    """

    TITLE = "supervised, all classes of the sample"
    SETTINGS = {"encoder": ENCODER, "hardest": 40, "n_classes": 10}

    @classmethod
    def make(cls, *, encoder: Mapping, hardest: int | None, n_classes: int) -> Supervised:
        """For `pretraining.pretrain`: a transformer of particles and a linear head."""
        body = from_settings(encoder)
        model = cls(body, heads.linear(body.dim, n_classes))
        model.hardest = hardest
        return model

    def fit(self, data, *, seed: int) -> Supervised:
        """Set the scaling of the encoder's inputs to training jets; returns self."""
        self.encoder.fit(data.x, data.offsets)
        return self
