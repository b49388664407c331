"""Contrast between simulations of the same hard parton: what they share is what the parton decided.

Loss and network are those of `JetCLR`; the views are other jets, which come with the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from jetnb import augment, views
from jetnb.models.particles import ENCODER, from_settings
from jetnb.strategies.contrastive import JetCLR

GROUPS = {
    "pairs": views.pairs,
    "dijet": views.dijet_partner,
    "tracks_against_clusters": views.tracks_against_clusters,
}


class Resimulation(JetCLR):
    """Contrastive pretraining on jets of the same origin, RS3L.

    groups: what makes two jets of one origin, a name of `GROUPS`: the same hard parton simulated
    twice, the two jets of an event, or tracker and calorimeter. variations: of "pairs", those to use,
    the first, which is in each pair, and the others; None is all of the sample. turn: draw for each
    view a rotation about its axis, too. All else as in `JetCLR`. Source: 2403.07066, there with a
    graph network and 8 dimensions.
    """

    TITLE = "RS3L, contrast of re-simulations, arXiv:2403.07066"
    SETTINGS = {
        "encoder": ENCODER,
        "groups": "pairs",
        "variations": None,
        "turn": False,
        "output": 128,
        "hardest": 40,
        "temperature": 0.1,
    }

    from_stores = True  # where jets of one origin are

    @classmethod
    def make(
        cls,
        *,
        encoder: Mapping,
        groups: str,
        variations: list[str] | None,
        turn: bool,
        output: int,
        hardest: int | None,
        temperature: float,
    ) -> Resimulation:
        """For `pretraining.pretrain`; output: width of the embedding that the loss compares."""
        if groups not in GROUPS:
            raise ValueError(f"groups {groups!r} is unknown: use one of {', '.join(GROUPS)}")
        if variations is not None and groups != "pairs":
            raise ValueError(f"variations are of groups 'pairs', not of {groups!r}: leave them out")
        model = cls(
            from_settings(encoder),
            output=output,
            temperature=temperature,
            views=partial(_drawn, turn=turn, first=groups != "dijet"),
        )
        given = {} if variations is None else {"variations": variations}
        model.data = partial(GROUPS[groups], hardest=hardest, **given)
        model.hardest = hardest
        return model

    def fit(self, data, *, seed: int) -> Resimulation:
        """Set the scaling of the encoder's inputs to all jets of the groups; returns self."""
        x, offsets = torch.from_numpy(data.x), torch.from_numpy(data.offsets)
        self.encoder.fit(*views.split(x, offsets)[:2])
        return self


def _drawn(particles, offsets, *, generator, turn: bool, first: bool):
    drawn = views.members(particles, offsets, generator=generator, first=first)
    return tuple(augment.rotate(*one, generator=generator) for one in drawn) if turn else drawn
