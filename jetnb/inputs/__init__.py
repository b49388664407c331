"""Model inputs: features of constituents by name as one packed batch, the scaler, and momenta
relative to the jet axis.

    batch = inputs.compute(train, inputs.KINEMATIC)  # (T, 7), offsets (N+1,)
    scaler = inputs.Scaler.fit(batch.x, inputs.KINEMATIC)
    x = scaler.transform(batch.x)

Definitions are those of the Particle Transformer, arXiv:2202.03772 (table 2), but deta is not
mirrored at negative jet eta, as it is in the files of JetClass. Masses of constituents are not
used.

features: what each name means. scaler, relative: as above. tracks, events: inputs of tracks, and of
several jets of one event. batches: data for training, in memory or in stores.
"""

from jetnb.inputs.features import (
    AXIS,
    FEATURES,
    KINEMATIC,
    TABLE,
    TRACK,
    TYPES,
    UNSCALED,
    available,
    check,
    compute,
    compute_packed,
    needs,
)
from jetnb.inputs.relative import from_relative, to_relative
from jetnb.inputs.scaler import Scaler
from jetnb.packed import Batch

__all__ = [
    "AXIS",
    "FEATURES",
    "KINEMATIC",
    "TABLE",
    "TRACK",
    "TYPES",
    "UNSCALED",
    "Batch",
    "Scaler",
    "available",
    "check",
    "compute",
    "compute_packed",
    "from_relative",
    "needs",
    "to_relative",
]
