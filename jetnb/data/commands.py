"""`jetnb data`: what there is, downloads, conversion into stores, and checks."""

from __future__ import annotations

from pathlib import Path


def add(commands) -> None:
    """Add the command `data` to the parsers `commands`."""
    data = commands.add_parser("data", help="samples and published datasets").add_subparsers(
        dest="what", required=True, metavar="COMMAND"
    )
    data.add_parser("list", help="the shipped samples and the published datasets by name")
    data.add_parser(
        "info", help="what a sample or dataset is, whom to cite, which files there are"
    ).add_argument("name", metavar="NAME")
    download = data.add_parser("download", help="fetch files of a published dataset")
    download.add_argument("name", metavar="DATASET")
    download.add_argument(
        "files", nargs="*", metavar="FILE", help="names, patterns such as 'RunG_*', or all"
    )
    download.add_argument(
        "--into", type=Path, required=True, metavar="DIR", help="the folder for them"
    )
    download.add_argument(
        "--check", action="store_true", help="compare checksums of files that are there, too"
    )
    download.add_argument("--unpack", action="store_true", help="unpack tar archives")
    convert = data.add_parser(
        "convert", help="turn published files into one store, which is read many times faster"
    )
    convert.add_argument("files", nargs="+", metavar="FILE")
    convert.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the store to write"
    )
    convert.add_argument(
        "--dataset", metavar="NAME", help="what they are; known by their content without"
    )
    check = data.add_parser(
        "check", help="report on files; without any, compare the shipped ones with their checksums"
    )
    check.add_argument("files", nargs="*", metavar="FILE")


def run(args) -> int:
    """Run what `add` has parsed; 0 if all went well, 1 if a file should not be used."""
    return {
        "list": _list,
        "info": _info,
        "download": _download,
        "convert": _convert,
        "check": _check,
    }[args.what](args)


def _list(args) -> int:
    from jetnb.data import catalogue, datasets

    print("Shipped with jetnb, simulated; load them by name:")
    for sample in catalogue.SAMPLES.values():
        print(f"  {sample.name:12}{sample.n_jets:>7,} jets  {sample.imitates}")
    print(
        "\nPublished datasets; `jetnb data info NAME` says more, `jetnb data download NAME` fetches files:"
    )
    width = max(map(len, datasets.DATASETS)) + 2
    for dataset in datasets.DATASETS.values():
        print(f"  {dataset.name:{width}}{dataset.title}, {dataset.licence}")
    return 0


def _info(args) -> int:
    from jetnb import jets
    from jetnb.data import catalogue, datasets

    parts = []
    if args.name in catalogue.SAMPLES:
        parts.append(jets.describe(catalogue.load(args.name)))
    if not parts or args.name in datasets.DATASETS:
        parts.append(datasets.describe(args.name))
    print("\n\npublished as ".join(parts))
    return 0


def _download(args) -> int:
    from jetnb.data import download

    for path in download.download(
        args.name, args.files, folder=args.into, check=args.check, unpack=args.unpack
    ):
        print(path)
    return 0


def _convert(args) -> int:
    from tqdm.auto import tqdm

    from jetnb.data import catalogue

    if args.out.exists():
        raise ValueError(f"--out {args.out} is there already: choose another path, or remove it")
    bar = tqdm(args.files, unit="file", disable=len(args.files) == 1)
    store = catalogue.convert(bar, args.out, dataset=args.dataset)
    print(f"{len(store):,} jets in {store.path}")
    return 0


def _check(args) -> int:
    from jetnb.data import catalogue
    from jetnb.data.report import check

    if not args.files:
        catalogue.verify_shipped()
        print("the shipped samples agree with their checksums")
    good = True
    for i, path in enumerate(args.files):
        report = check(path)
        # As it is made: reading the next may take minutes.
        print("\n" if i else "", report, sep="", flush=True)
        good = good and report.ok
    return int(not good)
