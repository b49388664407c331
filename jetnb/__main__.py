"""The command line, ``jetnb`` or ``python -m jetnb``: each command is one call that a notebook cell could make."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jetnb", description="Foundation models for jets at the LHC.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute the notebooks and leave an HTML gallery")
    run.add_argument("numbers", nargs="*", metavar="NN", help="numbers of notebooks; all without")
    run.add_argument("--scale", choices=("ci", "laptop", "paper"), default="laptop")
    run.add_argument("--out", type=Path, metavar="DIR", help="where the gallery goes; data/derived/gallery without")
    run.add_argument("--timeout", type=int, default=3600, metavar="SECONDS", help="the longest that one cell may take")

    simulate = commands.add_parser("simulate", help="simulate a named sample with Pythia 8 and a fast detector")
    simulate.add_argument("name", metavar="NAME")
    simulate.add_argument("--jets", type=int, required=True, metavar="N")
    simulate.add_argument("--seed", type=int, required=True, metavar="S")
    simulate.add_argument("--out", type=Path, metavar="PATH",
                          help="the store to write, or a .parquet file; under data/derived without")
    simulate.add_argument("--processes", type=int, metavar="P", help="worker processes; all cores without")

    data = commands.add_parser("data", help="what samples there are").add_subparsers(dest="what", required=True)
    data.add_parser("list", help="the samples by name")
    data.add_parser("info", help="where a sample comes from and what is in it").add_argument("name", metavar="NAME")
    data.add_parser("check", help="compare the shipped samples with their checksums")
    convert = data.add_parser("convert", help="turn files of a published dataset into a store")
    convert.add_argument("name", metavar="NAME", help="the sample that imitates the dataset: aoj, jetclass, toptagging")
    convert.add_argument("files", nargs="+", type=Path, metavar="FILE")
    convert.add_argument("--out", type=Path, required=True, metavar="DIR", help="the store to write")
    return parser


def _run(args) -> int:
    from jetnb import runner

    return min(runner.run(args.numbers, args.scale, out=args.out or runner.GALLERY, timeout=args.timeout), 1)


def _simulate(args) -> int:
    from jetnb.simulation import production

    store = production.simulate(args.name, n_jets=args.jets, seed=args.seed, path=args.out, processes=args.processes)
    print(f"{len(store):,} jets in {store.path}")
    return 0


def _data(args) -> int:
    from tqdm.auto import tqdm

    from jetnb import catalogue, jets

    if args.what == "list":
        for name in catalogue.SAMPLES:
            print(name)
    elif args.what == "info":
        print(jets.describe(catalogue.load(args.name)))
    elif args.what == "convert":
        store = catalogue.convert(args.name, tqdm(args.files, unit="file", disable=len(args.files) == 1), args.out)
        print(f"{len(store):,} jets in {store.path}")
    else:
        catalogue.verify_shipped()
        print("the shipped samples agree with their checksums")
    return 0


def _is_ours(error) -> bool:
    """Whether an error was raised by a line of this package, and so is written for its user."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(Path(__file__).parent)


def main(argv=None) -> int:
    """Run one command; 0 if all went well, 1 if a notebook failed, 2 if what was asked for cannot be done."""
    args = _parser().parse_args(argv)
    try:
        return {"run": _run, "simulate": _simulate, "data": _data}[args.command](args)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        if not _is_ours(error) and not isinstance(error, FileNotFoundError):
            raise
        print(f"jetnb: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
