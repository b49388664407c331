"""The scaling of model inputs: mean and width of each feature, as the training jets have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jetnb import atomic
from jetnb.inputs.features import UNSCALED


class Scaler(NamedTuple):
    """Mean and width of each feature: `fit` on the training jets only, `transform`, and `inverse`
    to come back.

    Charge and flags of particle types stay as they are, since a rare type would be many widths from
    its mean; a feature that is constant is only shifted. Nothing is clipped, so `inverse` undoes
    `transform` to float32 precision. Taught in notebook 10.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    width: tuple[float, ...]

    @classmethod
    def fit(cls, x: np.ndarray, features: Iterable[str]) -> Scaler:
        """Scaler of the constituents x (T, F) of training jets; features: their F names, in order.

        Raises `ValueError` for no constituents, values that are not finite, and a number of names
        other than F.
        """
        features = tuple(features)
        x = _columns(x, features)
        if len(x) == 0:
            raise ValueError(
                "x has no constituents: a scaler is fitted on those of the training jets"
            )
        mean = x.mean(axis=0, dtype=np.float64)
        if not np.isfinite(mean).all():
            raise ValueError(
                f"feature {features[np.argmin(np.isfinite(mean))]!r} is not finite everywhere: "
                "make x with inputs.compute, which checks"
            )
        width = x.std(axis=0, dtype=np.float64)
        constant, unscaled = np.ptp(x, axis=0) == 0, np.isin(features, UNSCALED)
        return cls(
            features,
            tuple(np.where(unscaled, 0.0, mean).tolist()),
            tuple(np.where(constant | unscaled, 1.0, width).tolist()),
        )

    def transform(self, x: np.ndarray) -> np.ndarray:
        """(x - mean) / width: x (T, F) to (T, F) float32."""
        return (_columns(x, self.features) - np.float32(self.mean)) / np.float32(self.width)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """x * width + mean: x (T, F) to (T, F) float32."""
        return _columns(x, self.features) * np.float32(self.width) + np.float32(self.mean)

    def to_dict(self) -> dict:
        """As plain names and numbers, for a checkpoint or JSON."""
        return {name: list(values) for name, values in self._asdict().items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> Scaler:
        """The scaler that `to_dict` wrote. Raises `ValueError` for anything else."""
        lengths = (
            {len(values[name]) for name in cls._fields}
            if set(values) == set(cls._fields)
            else set()
        )
        if len(lengths) != 1:
            raise ValueError(
                f"this is no scaler: it needs {', '.join(cls._fields)} of one length, not {dict(values)}"
            )
        return cls(*(tuple(values[name]) for name in cls._fields))

    def save(self, path) -> None:
        """Write as JSON to `path`, replacing what is there only when complete."""
        with atomic.new_file(Path(path), replace=True) as file:
            file.write_text(json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path) -> Scaler:
        """Read what `save` wrote. Raises `ValueError` for another content."""
        return cls.from_dict(json.loads(Path(path).read_text()))


def _columns(x: np.ndarray, features: Sequence[str]) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if x.ndim != 2 or x.shape[1] != len(features):
        raise ValueError(
            f"x has shape {x.shape}, but the {len(features)} features {', '.join(features)} are expected"
        )
    return x
