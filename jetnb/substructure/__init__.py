"""Substructure: groomed mass, N-subjettiness, energy correlations, the other high-level features of
jets, subjets, and images.

features: what each name means, over blocks of jets. clusters: subjets of packed jets. kernels:
clustering and axes, compiled.
"""

from jetnb.substructure.clusters import subjets, walk
from jetnb.substructure.features import AXES, FEATURES, TAUS, compute, decluster, images

__all__ = ["AXES", "FEATURES", "TAUS", "compute", "decluster", "images", "subjets", "walk"]
