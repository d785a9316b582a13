"""The command `benchmark`: finished stages in, one folder of questions with a card out."""

import argparse
from pathlib import Path

_BENCHMARK = """\
Make a benchmark of single-choice questions about held-out pictures (split test, or folds), with a card.

morphopercept  one question for each picture and attribute: which of its values the picture shows. Only attributes that
               a drawing, the source or a person gave are asked about; votes of models and corrections by rule only
               with --set "accept=[truth, expert]"
cytocell       one question for each picture: which class its `finding` is

DIR then holds samples/ for the stages of a recipe, card.md to read, and benchmark.json with the hash over all items
that a published number should name. The benchmarks `morphopercept` and `cytocell` of a stage `evaluate` ask them.
"""
_BENCHMARK_EPILOG = """\
examples:
  pathloom benchmark morphopercept cells --out cells_morpho           cells: a stage under runs/, or a folder
  pathloom benchmark morphopercept cells --out balanced --set per_value=40     no commonest value that always wins
  pathloom benchmark cytocell herlev cells --out classes --set "classes=[NILM, LSIL, HSIL, SCC]"
  in a recipe: {name: classes, kind: benchmark, family: cytocell, samples: [cells]}
"""


def add_benchmark(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", default_runs: Path
) -> None:
    """Add the command to the parser of all commands."""
    benchmark = commands.add_parser(
        "benchmark",
        help="make a benchmark of single-choice questions from samples",
        description=_BENCHMARK,
        epilog=_BENCHMARK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark.add_argument("family", choices=("morphopercept", "cytocell"))
    benchmark.add_argument(
        "stages", nargs="+", metavar="STAGE", help="stages of --runs by their names, or their folders"
    )
    benchmark.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that is made")
    benchmark.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key: language=zh, num_options=3, per_value=40, release=2, attributes=FILE (repeatable)",
    )
    benchmark.add_argument("--runs", type=Path, default=default_runs)
    benchmark.set_defaults(command=_benchmark)


def _benchmark(arguments: argparse.Namespace) -> int:
    from pathloom.recipe import load_entry
    from pathloom.run import run_into
    from pathloom.stage import UserError, find_stage

    inputs: dict[str, Path] = {}
    for thing in arguments.stages:
        folder = find_stage(thing, arguments.runs)
        if folder is None:
            raise UserError(f"{thing}: no finished stage of that name or folder; see `pathloom list runs`")
        name = folder.resolve().name
        if inputs.setdefault(name, folder).resolve() != folder.resolve():
            raise UserError(f"{thing}: another folder is called {name} too; rename one of the two")
    entry = {
        "name": arguments.family,
        "kind": "benchmark",
        "family": arguments.family,
        "samples": list(inputs),
    }
    run_into(load_entry(entry, arguments.set), arguments.out, inputs=inputs)
    print(f"read: {arguments.out / 'card.md'}")
    return 0
