"""Four-vectors on jets: those of the library vector, but the field `tau2` of a jet is its
2-subjettiness.

In vector, `tau2` is an attribute of every four-vector: its proper time, or mass, squared. As
attributes come before fields, `jets.tau2` would be that without a warning. Here it is the field
where there is one; the mass squared is `jets.mass2`.
"""

from __future__ import annotations

import awkward as ak
import vector
from vector.backends import awkward as backend

vector.register_awkward()


def _with_tau2(base):
    def tau2(self):
        return self["tau2"] if "tau2" in ak.fields(self) else base.tau2.fget(self)

    mass2 = property(lambda self: base.tau2.fget(self))
    ours = {
        "__module__": __name__,
        "tau2": property(tau2),
        "mass2": mass2,
        "m2": mass2,
        "M2": mass2,
    }
    return type(base.__name__, (base,), ours)


ak.behavior["*", "Momentum4D"] = _with_tau2(backend.MomentumArray4D)
ak.behavior["Momentum4D"] = _with_tau2(backend.MomentumRecord4D)
