"""The shipped figures of a GPU: what docs/gpu.md says of them is what they say."""

import re

import pytest

from jetnb import _json
from jetnb.book import runner

FILES = sorted((runner.ROOT / "data" / "reference" / "gpu").glob("*.json"))
ROWS = {  # of docs/gpu.md: where its numbers in float32 and bfloat16 are
    "transformer": ("Transformer: float32", "Transformer: bfloat16, attention by efficient"),
    "`nn.TransformerEncoder` of this size, on padded jets": tuple(
        f"nn.TransformerEncoder, padded to the longest of the batch: {kind}"
        for kind in ("float32", "bfloat16")
    ),
    "Particle Transformer": (
        "Particle Transformer: float32",
        "Particle Transformer: bfloat16, buckets in steps of 32",
    ),
    **{
        name: (f"{name}: float32", f"{name}: bfloat16")
        for name in ("JetCLR", "masked autoencoder", "next token")
    },
    "generation": ("4096 at a time, float32", "4096 at a time, bfloat16"),
}


@pytest.fixture(scope="module")
def h200():
    return _json.read(
        runner.ROOT / "data" / "reference" / "gpu" / "h200.json",
        what="record of the battery",
        remedy="collect it again with tests/gpu/battery.py",
    )


@pytest.fixture(scope="module")
def page():
    return " ".join((runner.ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_record_says_what_was_measured_where(file):
    found = _json.read(
        file,
        {"machine": dict, "tiny": bool, "remarks": list, "results": dict},
        what="record of the battery",
        remedy="collect it again",
    )
    assert {"device", "memory_GB", "cuda", "torch", "python", "jetnb", "cores", "date"} <= found[
        "machine"
    ].keys()
    assert not found["tiny"] and {"numerics", "generate", "processes"} <= found["results"].keys()
    assert "speed" in found["results"] or "no part speed" in " ".join(found["remarks"])
    if "speed" in found["results"]:
        assert "where" not in str(found["results"]["speed"]["Transformer: waits"])
    failed = {
        f"{part}: {name}"
        for part, results in found["results"].items()
        for name, one in results.items()
        if "error" in one
    }
    assert all(any(name in remark for remark in found["remarks"]) for name in failed)


@pytest.mark.parametrize("name", ROWS)
def test_speeds_of_the_page_are_those_of_the_record(name, h200, page):
    speeds = h200["results"]["generate" if name == "generation" else "speed"]
    row = re.search(rf"\| {re.escape(name)}(?:, [^|]*)? \| ([\d ]+) \| ([\d ]+) \|", page)
    assert row, f"docs/gpu.md has no row for {name}"
    for said, key in zip(row.groups(), ROWS[name], strict=True):
        assert int(said.replace(" ", "")) == int(float(f"{speeds[key]['jets/s']:.3g}")), key
    if weights := re.search(r"([\d.]+) M weights", row[0]):
        key = {"transformer": "Transformer"}.get(name, name)
        assert float(weights[1]) == round(speeds[f"{key}: weights"]["weights"] / 1e6, 1)


def test_conditions_of_the_page_are_those_of_the_record(h200, page):
    results, machine = h200["results"], h200["machine"]
    jets, worst = (
        results["speed"]["jets"],
        {
            kind: {
                part: max(one[kind][part] for one in results["numerics"].values())
                for part in ("loss", "gradient")
            }
            for kind in ("float32", "float32 on the CPU")
        },
    )
    assert worst["float32"]["loss"] <= 1.1 * worst["float32 on the CPU"]["loss"]
    for words in (
        f"NVIDIA H200, with torch {machine['torch'][:4]} for CUDA {machine['cuda'][:2]}.",
        f"of {jets['batch']} jets with {jets['constituents']:.0f} constituents on average",
        f"{results['simulate']['aoj']['cores']} of {machine['cores']} CPU cores were busy",
        f"losses to {worst['float32']['loss']:.1e}, gradients to {worst['float32']['gradient']:.1e}".replace(
            "e-0", "e-"
        ),
        f"weights of one to {results['processes']['two processes']['difference']:.1e}".replace(
            "e-0", "e-"
        ),
    ):
        assert words in page
