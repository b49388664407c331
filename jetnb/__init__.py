"""Foundation models of LHC jets, notebook first: `jets = jetnb.load("aoj")`,
`print(jetnb.describe(jets))`.

Importing the package is cheap: awkward, torch and the rest are imported by the modules that need
them.
"""

from __future__ import annotations

import importlib

__version__ = "0.2.0"
__all__ = ["__version__", "check", "describe", "load", "open_store"]

_HOME = {
    "load": "jetnb.data.catalogue",
    "open_store": "jetnb.data.catalogue",
    "describe": "jetnb.jets",
    "check": "jetnb.data.report",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(
            f"module 'jetnb' has no attribute {name!r}; it offers {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
