"""The command line, ``jetnb`` or ``python -m jetnb``: each command is one call that a notebook cell
could make.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from jetnb.book import commands as book
from jetnb.data import commands as data


def _seed(text: str) -> int:
    if (seed := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative: a seed is 0 or more")
    return seed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jetnb", description="Foundation models for jets at the LHC."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    book.add(commands)
    simulate = commands.add_parser(
        "simulate", help="simulate a named sample with Pythia 8 and a fast detector"
    )
    simulate.add_argument("name", metavar="NAME")
    simulate.add_argument("--jets", type=int, required=True, metavar="N")
    simulate.add_argument("--seed", type=_seed, required=True, metavar="S")
    simulate.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="the store to write, or a .parquet file; under data/derived without",
    )
    simulate.add_argument(
        "--processes", type=int, metavar="P", help="worker processes; all cores without"
    )
    simulate.add_argument(
        "--veto",
        action="store_true",
        help="drop early the events that will have no jet to keep: up to twice as fast, other events",
    )

    pretrain = commands.add_parser("pretrain", help="pretrain and keep it as checkpoint")
    pretrain.add_argument(
        "strategy",
        metavar="STRATEGY",
        help="a name, FILE.py:Class of your own, or `list`: what there is, with all settings",
    )
    pretrain.add_argument(
        "data",
        nargs="*",
        metavar="NAME",
        help="samples, stores (`data convert` makes them of any file) or Parquet files of ours",
    )
    pretrain.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the strategy, e.g. temperature=0.2 encoder.dim=128",
    )
    pretrain.add_argument(
        "--split",
        nargs=3,
        type=float,
        default=(1.0, 0.0, 0.0),
        metavar="X",
        help="shares, by event: to train, to pick the best epoch, to leave out; 1 0 0 without",
    )
    pretrain.add_argument(
        "--jets", type=int, metavar="N", help="jets drawn from the first part; all without"
    )
    pretrain.add_argument("--steps", type=int, default=1000, metavar="N", help="1000 without")
    pretrain.add_argument("--batch-size", type=int, default=256, metavar="B")
    pretrain.add_argument("--lr", type=float, default=1e-3, metavar="X")
    pretrain.add_argument("--seed", type=_seed, default=1, metavar="S", help="1 without")
    pretrain.add_argument(
        "--accelerator", default="auto", help="cpu, cuda, ...; what there is without"
    )
    pretrain.add_argument(
        "--fsdp",
        action="store_true",
        help="each of many processes keeps a share of the weights, for what does not fit into one device",
    )
    pretrain.add_argument(
        "--out", type=Path, metavar="DIR", help="the checkpoint; goes on from there"
    )

    league = commands.add_parser(
        "league", help="pretrain and judge every strategy alike; print the table"
    )
    league.add_argument(
        "data",
        nargs="?",
        metavar="STORE",
        help="jets to pretrain on, none of them shipped; without, the table of what --out has",
    )
    league.add_argument("--out", type=Path, required=True, metavar="DIR", help="goes on from there")
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    league.add_argument("--seeds", type=_seed, metavar="S", help="1 2 3 without", **several)
    league.add_argument("--rows", metavar="ROW", help="all without", **several)
    league.add_argument("--columns", metavar="COLUMN", help="all without", **several)
    league.add_argument(
        "--extras", metavar="FEATURE", help="what encoders read beside momenta", **several
    )

    data.add(commands)
    return parser


def _simulate(args) -> int:
    from jetnb.simulation import production

    store = production.simulate(
        args.name,
        n_jets=args.jets,
        seed=args.seed,
        path=args.out,
        processes=args.processes,
        veto=args.veto,
    )
    print(f"{len(store):,} jets in {args.out or store.path}")
    return 0


def _pretrain(args) -> int:
    import json

    import numpy as np

    from jetnb import jets, pretraining
    from jetnb.data import catalogue
    from jetnb.inputs import batches
    from jetnb.training import launched

    if args.strategy == "list":
        for name in pretraining.STRATEGIES:
            _, made = pretraining.find(name)
            print(f"{name:24}{made.TITLE}\n{'':24}{json.dumps(made.SETTINGS)}")
        return 0
    if not args.data or args.out is None:
        raise ValueError("pretrain: name the jets, and with --out where the checkpoint goes")
    if args.out.exists() and not (args.out / "card.json").exists():
        raise ValueError(
            f"--out {args.out} is there and is no checkpoint: choose another, or remove it"
        )
    settings = {}
    for text in args.set:
        _set(settings, text)
    if files := [
        name for name in args.data if Path(name).is_file() and Path(name).suffix != ".parquet"
    ]:
        raise ValueError(
            f"{files[0]} is no store: make one with `jetnb data convert {files[0]} --out STORE`"
        )
    every = batches.Rows([catalogue.open_store(name) for name in args.data])
    part = jets.parts(every.column("event"), args.split, seed=args.seed)
    train, validation = (batches.numbers(part == i) for i in (0, 1))
    if not len(train):
        raise ValueError(f"--split {args.split}: no jet is left to train on: make the first larger")
    if args.jets is not None and not 1 <= args.jets <= len(train):
        raise ValueError(f"--jets {args.jets}: ask for 1 to {len(train)}, all that are to train on")
    train = np.random.default_rng(args.seed).permutation(train)[: args.jets]
    del part
    made = [
        {"sample": about["sample"], "seed": about.get("seed"), "jets": len(store)}
        for store in every.stores
        for about in [jets.provenance(store.jets)]
    ]
    train, validation = (batches.Rows(every.stores, rows) for rows in (train, validation))
    history = pretraining.pretrain(
        args.strategy,
        train,
        args.out,
        seed=args.seed,
        settings=settings,
        validation=validation if len(validation) else None,
        card={"drawn_from": made, "split": list(args.split)},
        steps=args.steps,
        batch_size=args.batch_size,
        lr=args.lr,
        accelerator=args.accelerator,
        fsdp=args.fsdp,
        resume=True,
    )
    if history.reason == "interrupted":
        raise KeyboardInterrupt
    loss = f"loss {history.epochs[-1]['loss']:.3f}" if history.epochs else "nothing to train"
    if launched.rank() == 0:
        print(f"{history.reason}: {loss}, in {args.out}")
    return 0


def _league(args) -> int:
    from jetnb import league
    from jetnb.data import catalogue
    from jetnb.league import tables

    if args.data is not None:
        if unknown := [name for name in args.rows or () if name not in league.ROWS]:
            raise ValueError(
                f"--rows: {unknown[0]!r} is none of {', '.join(map(repr, league.ROWS))}"
            )
        league.run(
            [league.ROWS[name] for name in args.rows or league.ROWS],
            args.seeds or [1, 2, 3],
            catalogue.load(args.data),
            args.out,
            columns=args.columns or list(league.COLUMNS),
            rules=league.Rules(extras=args.extras or ()),
            say=lambda text: print(text, flush=True),
        )
    elif given := [name for name in ("seeds", "rows", "columns", "extras") if getattr(args, name)]:
        raise ValueError(f"--{given[0]} says what is to be played, so it needs a STORE of jets")
    print(tables.text(tables.read(args.out)))
    return 0


def _set(settings: dict, text: str) -> None:
    """Put KEY=VALUE into settings: KEY may be a path with points, VALUE is read as JSON if it can
    be.
    """
    import json

    key, equals, value = text.partition("=")
    *path, last = key.split(".")
    if not (equals and last):
        raise ValueError(f"--set: {text!r} is not KEY=VALUE")
    for part in path:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise ValueError(
                f"--set: {text!r} is inside of {part!r}, which was set to {settings!r}: give one of them"
            )
    with contextlib.suppress(ValueError):
        value = json.loads(value)
    settings[last] = value


def _is_ours(error) -> bool:
    """Whether an error was raised by a line of this package, and so is written for its user."""
    from jetnb import parallel

    cause = error.__cause__
    file = (
        cause.file
        if isinstance(cause, parallel.Elsewhere)
        else traceback.extract_tb(error.__traceback__)[-1].filename
    )
    return Path(file).is_relative_to(Path(__file__).parent)


INTERRUPTED = {  # what becomes of the work of a command that is interrupted
    "run": "the notebooks that were done are in the gallery; --resume goes on from there",
    "simulate": "the parts that were done are kept; the same command goes on from there",
    "pretrain": "the same command goes on from what was kept",
    "league": "what was pretrained and judged is kept; the same command goes on from there",
    "download": "what has come is kept; the same command goes on from there",
    "convert": "no store was made",
    "site": "the site is not whole; the same command builds it anew",
}


def main(argv=None) -> int:
    """Run one command; 0 if all went well, 1 if a notebook failed or a file should not be used, 2
    if what was asked for cannot be done, 130 if it was interrupted."""
    args = _parser().parse_args(argv)
    # Threads of torch that wait sleep, here and in kernels: else they take the time of those who
    # have something to do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return {
            "run": book.run,
            "readme": book.readme,
            "site": book.site,
            "simulate": _simulate,
            "pretrain": _pretrain,
            "league": _league,
            "data": data.run,
        }[args.command](args)
    except KeyboardInterrupt:
        kept = INTERRUPTED.get(getattr(args, "what", args.command))
        print(f"jetnb: interrupted{f': {kept}' if kept else ''}", file=sys.stderr)
        return 130
    except (ValueError, ModuleNotFoundError, OSError, RuntimeError) as error:
        if not _is_ours(error) and not isinstance(
            error, FileNotFoundError | FileExistsError | NotADirectoryError
        ):
            raise
        print(f"jetnb: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
