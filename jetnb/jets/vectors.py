"""Four-vectors on jets: those of the library vector, but the fields `tau2` and `e2` of a jet are its
2-subjettiness and its energy correlation.

In vector, they are attributes of every four-vector: the proper time, or mass, squared, and the energy
squared. As attributes come before fields, `jets.tau2` would be that without a warning. Here it is the
field where there is one; the mass squared is `jets.mass2`, the energy squared `jets.E2`.
"""

from __future__ import annotations

import awkward as ak
import vector
from vector.backends import awkward as backend

vector.register_awkward()


def _fields_first(base):
    def field_or(name):
        own = getattr(base, name).fget
        return property(lambda self: self[name] if name in ak.fields(self) else own(self))

    ours = {name: field_or(name) for name in ("tau2", "e2")}
    ours |= {name: property(base.tau2.fget) for name in ("mass2", "m2", "M2")}
    return type(base.__name__, (base,), {"__module__": __name__, **ours})


ak.behavior["*", "Momentum4D"] = _fields_first(backend.MomentumArray4D)
ak.behavior["Momentum4D"] = _fields_first(backend.MomentumRecord4D)
