"""The commands of `jetnb` that have to do with notebooks: run, readme, site. Importing this is cheap."""

from __future__ import annotations

from pathlib import Path


def add(commands) -> None:
    """Put these commands to the subparsers `commands`."""
    run = commands.add_parser("run", help="execute the notebooks and leave an HTML gallery")
    run.add_argument("numbers", nargs="*", metavar="NN", help="numbers of notebooks; all without")
    run.add_argument("--scale", choices=("ci", "laptop", "paper"), default="laptop")
    run.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where the gallery goes; data/derived/gallery without",
    )
    run.add_argument(
        "--timeout",
        type=int,
        default=3600,
        metavar="SECONDS",
        help="the longest that one cell may take",
    )
    run.add_argument(
        "--keep-going", action="store_true", help="go on where one fails; without, it ends the run"
    )
    run.add_argument(
        "--resume", action="store_true", help="leave out those that are done, as they stand now"
    )
    readme = commands.add_parser(
        "readme", help="write pictures and table of the README from a gallery of all notebooks"
    )
    site = commands.add_parser(
        "site", help="build pages that need no network: notebooks, talks, reference of the package"
    )
    for parser in (readme, site):
        parser.add_argument(
            "galleries", nargs="*", type=Path, metavar="DIR", help="data/derived/gallery without"
        )
    site.add_argument(
        "--out", type=Path, metavar="DIR", help="where the site goes; data/derived/site without"
    )


def run(args) -> int:
    from jetnb.book import runner

    failed = runner.run(
        args.numbers,
        args.scale,
        out=args.out or runner.GALLERY,
        timeout=args.timeout,
        keep_going=args.keep_going,
        resume=args.resume,
    )
    return min(failed, 1)


def readme(args) -> int:
    from jetnb.book import readme, runner

    missing = readme.write(args.galleries or [runner.GALLERY])
    if missing:
        print(
            f"left as they were, since no run at laptop scale has their code: {', '.join(missing)}"
        )
    print(f"{readme.README} and {readme.PICTURES}")
    return int(bool(missing))


def site(args) -> int:
    from jetnb.book import runner, site

    index = site.build(args.galleries or [runner.GALLERY], args.out or site.SITE)
    print(f"site: {index.resolve().as_uri()}")
    return 0
