"""The std::vector branches of the published JetClass files, for `reading.py --jetclass`: uproot
cannot write them.

    python tests/benchmarks/jetclass_vectors.py IN.root OUT.root

Needs ROOT (`pip install ROOT`, in an environment of its own). IN is what `big_files.jetclass_file`
makes; OUT has the same columns, LZ4(4), written by RDataFrame's Snapshot as the published files
are.
"""

from __future__ import annotations

import sys

import ROOT


def main(source: str, target: str) -> None:
    frame, names = ROOT.RDataFrame("tree", source), []
    for name in map(str, frame.GetColumnNames()):
        kind = str(frame.GetColumnType(name))
        if name.startswith("part_"):
            element = "float" if "loat" in kind else "int"
            frame = frame.Redefine(name, f"std::vector<{element}>({name}.begin(), {name}.end())")
        if name.startswith(("part_", "jet_", "label_")):
            names.append(name)
    options = ROOT.RDF.RSnapshotOptions(
        "RECREATE", ROOT.RCompressionSetting.EAlgorithm.kLZ4, 4, 0, 99, False
    )
    frame.Snapshot("tree", target, names, options)


if __name__ == "__main__":
    main(*sys.argv[1:])
