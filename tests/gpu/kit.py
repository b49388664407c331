"""What the battery needs on a machine with torch for CUDA, the usual packages and no network: one
archive.

    python tests/gpu/kit.py KIT.tar.xz [--python 3.12]        # here, with a network: 12 MB
    mkdir SITE && tar xJf KIT.tar.xz -C SITE                  # there
    export PYTHONPATH=SITE:$PWD PYTHIA8DATA=SITE/share/Pythia8/xmldoc OMP_NUM_THREADS=1
    python tests/gpu/battery.py --out OUT --parts numerics simulate speed generate processes train

The archive holds awkward, vector, uproot, FastJet and Pythia 8 as wheels unpack, without
documentation and parton densities that no recipe uses. numpy, scipy, numba, h5py, pyarrow,
scikit-learn, lightning and safetensors must be there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGES = (
    "awkward",
    "awkward-cpp",
    "vector",
    "uproot",
    "boost-histogram",
    "fastjet",
    "pythia8mc<8.318",
    "importlib-metadata",
    "zipp",
)
DENSITIES = (
    "NNPDF23_lo_as_0130_qed_0000.dat",
    "cteq6l1.tbl",
    "GRS99LOpi.dat",
    "pom*",
    "SU21*",
)  # that Pythia opens
PLATFORMS = (
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
)


def download(folder: Path, python: str) -> list[Path]:
    """The wheels of PACKAGES for this version of Python on Linux, without what they need in turn."""
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            python,
            "--implementation",
            "cp",
            *platforms,
            "-d",
            folder,
            *PACKAGES,
        ],
        check=True,
    )
    return sorted(folder.glob("*.whl"))


def unpack(wheels: list[Path], site: Path) -> None:
    """All wheels in one folder, with the data of Pythia in share/Pythia8."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    (data,) = site.glob("pythia8mc-*.data")
    share = site / "share" / "Pythia8"
    for name in ("xmldoc", "tunes", "pdfdata"):
        shutil.move(data / "data" / "share" / "Pythia8" / name, share / name)
    shutil.rmtree(data)
    kept = {file for pattern in DENSITIES for file in (share / "pdfdata").glob(pattern)}
    for file in set((share / "pdfdata").iterdir()) - kept:
        file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("--python", default="3.12", help="version of Python there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        unpack(download(Path(folder), args.python), site)
        with tarfile.open(args.kit, "w:xz") as archive:
            archive.add(site, arcname=".")
    print(f"{args.kit}: {args.kit.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
