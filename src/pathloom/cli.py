"""The command line: parses and calls, nothing else. Heavy imports wait until a command needs them."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pathloom import __version__
from pathloom.cli_benchmark import add_benchmark
from pathloom.cli_phantom import add_phantom
from pathloom.cli_slides import add_tile_options, print_slides, tile_keys

DEFAULT_RUNS = "runs"

_DESCRIPTION = """\
pathloom turns pathology images into a measured vision-language model.

A recipe (YAML) lists stages in order; each stage leaves a folder under runs/. Run the same command again after a
crash or a change: finished stages are skipped, a broken one goes on where it stopped.
"""
_EPILOG = """\
examples:
  pathloom run recipes/quickstart.yaml                   phantoms -> sft -> evaluate -> report, minutes on a laptop
  pathloom run recipes/tiles.yaml --set tiles.root=DIR   your own folder of labelled tiles
  pathloom show recipes/tiles.yaml                       what would run, and what is done already
  pathloom explain phantom/diagnosis/test/00003          where a sample came from and what happened to it
  pathloom score --task choice --parse free answers.jsonl
  pathloom review labelled --field subfield              a page on which a person corrects labels
"""
_INGEST = """\
Read a source into a folder, whose samples/ the stages of a recipe read. A killed run goes on where it stopped.

books: textbooks and articles, PDF or scanned, into pairs of picture and description: figures with their captions,
composites split into panels, and the sentences of the text that name them. All by rule, on this machine. DIR then also
holds pairs.jsonl, pictures/, gallery.html to look at, books.csv with a row a file, and pages/ with the status of every
page.

cells: fields or slides with boxes of cells into one tile an anchor cell, with its box drawn and context kept.
questions: published question files (CytoChat's workbooks) into test Samples; --set images=DIR where you have pictures.
slides: whole slides into tissue and tiles at --mpp, with a table, gallery.html, and GeoJSON that QuPath opens.
"""
_INGEST_PATHS = {"books": "path", "cells": "images", "questions": "path", "slides": "root"}
"""Source -> its key that PATH fills."""
_INGEST_EPILOG = """\
examples:
  pathloom ingest books atlas.pdf --out atlas              then open atlas/gallery.html
  pathloom ingest books shelf/ --out shelf_pairs --set licence="by agreement with the publisher"
  pathloom ingest books atlas.pdf --out measured --set truth=truth.jsonl     how often it errs on books you know
  pathloom review atlas --field keep                       a page on which a person checks the pairs
  pathloom ingest cells fields/ --out tiles --set boxes=voc/ --set tile_px=128
  pathloom ingest cells fields/ --out tiles --set detector=nuclei --set mpp=0.5 --set tile_um=56
  pathloom ingest slides slides/ --mpp 0.5 --size_px 224 --out tiles --set labels=labels.csv
  pathloom list sources                                    the keys of every source
  in a recipe: {name: books, kind: ingest, source: books, path: shelf}
"""
_REVIEW = """\
Write a page on which a person corrects labels or checks written samples, or merge what the page exported.

The page is one file that needs no network. Press ? on it for its keys and E to export the decisions.
"""
_REVIEW_EPILOG = """\
example:
  pathloom review labelled --field subfield --limit 200 --out review.html
  (open review.html in a browser, decide, press E)
  pathloom review --apply review-subfield-9c1e-Ada.jsonl --into reviews/subfield.jsonl --out review.html
  and in a recipe's curate stage: {step: reviewed, files: [reviews/subfield.jsonl]}
"""


def guard_threads() -> None:
    """Before torch is loaded: idle OpenMP threads sleep instead of spinning.

    Two torch processes with spinning threads on few cores slow each other down about 50 times. Whoever sets one of
    these variables keeps their choice.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 for the user to mend, 2 wrong usage, 130 stopped."""
    arguments = _parser().parse_args(argv)
    guard_threads()
    from pathloom.stage import UserError

    try:
        return int(arguments.command(arguments) or 0)
    except UserError as error:
        print(f"pathloom: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `pathloom show prompts | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("pathloom: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pathloom",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pathloom {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="run a recipe", description="Run a recipe; finished stages are skipped."
    )
    run.add_argument("recipe", type=Path, help="recipe file, for example recipes/quickstart.yaml")
    run.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="change one key (repeatable)"
    )
    run.add_argument(
        "--runs", type=Path, default=Path(DEFAULT_RUNS), help="folder of stage folders (default: runs)"
    )
    run.set_defaults(command=_run)

    _add_ingest(commands)
    add_phantom(commands)
    add_benchmark(commands, Path(DEFAULT_RUNS))

    plan = commands.add_parser(
        "plan",
        help="what a recipe would ask of language models, and what that costs",
        description="Forecast requests, tokens, time and money of every stage, after what is answered already. Nothing "
        "is run or asked. Prices stand in the recipe: teacher.prices.",
    )
    plan.add_argument("recipe", type=Path)
    plan.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="as for run")
    plan.add_argument("--runs", type=Path, default=Path(DEFAULT_RUNS))
    plan.set_defaults(command=_plan)

    listing = commands.add_parser("list", help=f"list {', '.join(_LISTS)}")
    listing.add_argument("what", nargs="?", choices=_LISTS, help="only this list")
    listing.add_argument("--runs", type=Path, default=Path(DEFAULT_RUNS))
    listing.set_defaults(command=_list)

    show = commands.add_parser(
        "show", help="show a recipe's stages, a stage's manifest, a sample, or prompts"
    )
    show.add_argument("thing", help="a recipe file, a stage by name or folder, a sample id, or `prompts`")
    show.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE", help="as for run")
    show.add_argument("--runs", type=Path, default=Path(DEFAULT_RUNS))
    show.set_defaults(command=_show)

    explain = commands.add_parser("explain", help="where a sample came from and what every stage did with it")
    explain.add_argument("sample_id")
    explain.add_argument("--runs", type=Path, default=Path(DEFAULT_RUNS))
    explain.set_defaults(command=_explain)

    score = commands.add_parser(
        "score",
        help="grade a file of published outputs",
        description="Grade outputs in JSON lines: `completion` plus `answer`, or `regions` as [x1,y1,x2,y2]; "
        "`choices` where there are options. The last line printed is JSON.",
    )
    score.add_argument("file", type=Path, help="JSON lines")
    score.add_argument(
        "--task", required=True, help="choice, yes_no, label, count, short_answer, caption or boxes"
    )
    score.add_argument(
        "--parse", choices=("tagged", "free"), default="tagged", help="tagged is strict (default)"
    )
    score.add_argument("--out", type=Path, help="write one graded line a completion to this file")
    score.set_defaults(command=_score)

    _add_review(commands)

    doctor = commands.add_parser("doctor", help="check this installation and say what to mend")
    doctor.set_defaults(command=_doctor)
    return parser


def _add_ingest(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    ingest = commands.add_parser(
        "ingest",
        help="read books, slides, cells, or another source into a folder",
        description=_INGEST,
        epilog=_INGEST_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ingest.add_argument(
        "source", choices=tuple(_INGEST_PATHS), help="what is read; recipes can read every source"
    )
    ingest.add_argument(
        "path",
        type=Path,
        help="books: a PDF, a page image, or a folder of PDFs and folders of page images; others: a folder",
    )
    ingest.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that is made")
    ingest.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key: licence=CC-BY, pages.ocr=never (repeatable); `pathloom list sources` shows each source's",
    )
    add_tile_options(ingest)
    ingest.set_defaults(command=_ingest)


def _add_review(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    review = commands.add_parser(
        "review",
        help="write a page for reviewing samples, or take in what it exported",
        description=_REVIEW,
        epilog=_REVIEW_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    review.add_argument(
        "stage", nargs="?", metavar="STAGE", help="a stage of --runs by its name, or its folder"
    )
    review.add_argument(
        "--field", default="subfield", help="subfield (default), organ, contradiction, or keep: keep or drop"
    )
    review.add_argument("--limit", type=int, default=200, help="samples on the page (default: 200)")
    review.add_argument(
        "--order",
        choices=("uncertain", "sample"),
        default="uncertain",
        help="least probable labels first (default), or drawn at random",
    )
    review.add_argument("--seed", type=int, default=0, help="of the random order (default: 0)")
    review.add_argument(
        "--out",
        type=Path,
        default=Path("review.html"),
        help="the page: written, or with --apply the one that was exported (default: review.html)",
    )
    review.add_argument("--apply", type=Path, metavar="EXPORT.jsonl", help="merge this export of the page")
    review.add_argument(
        "--into", type=Path, metavar="FILE.jsonl", help="with --apply: the file of all decisions"
    )
    review.add_argument("--runs", type=Path, default=Path(DEFAULT_RUNS))
    review.set_defaults(command=_review)


def _run(arguments: argparse.Namespace) -> int:
    from pathloom.recipe import load_recipe
    from pathloom.run import run_recipe

    report = run_recipe(load_recipe(arguments.recipe, arguments.set), arguments.runs, _say)
    if report is not None:
        from pathloom.evaluate.summary import terminal_summary

        summary = terminal_summary(report / "report.json")
        if summary:
            print(summary)
        print(f"report: {report / 'report.html'}")
    return 0


def _ingest(arguments: argparse.Namespace) -> int:
    from pathloom.recipe import load_entry
    from pathloom.run import run_into
    from pathloom.stage import MANIFEST_FILE

    entry = {
        "name": arguments.source,
        "kind": "ingest",
        "source": arguments.source,
        _INGEST_PATHS[arguments.source]: str(arguments.path),
        **tile_keys(arguments),
    }
    run_into(load_entry(entry, arguments.set), arguments.out, _say)
    if arguments.source == "slides":
        return print_slides(arguments.out)
    if arguments.source != "books":
        return 0
    from pathloom.books.table import TABLE_FILE, table_lines

    print("\n".join(table_lines(arguments.out / TABLE_FILE)))
    measured = json.loads((arguments.out / MANIFEST_FILE).read_text("utf-8"))["counts"].get(
        "measured_lines", []
    )
    print("\n".join([*measured, f"look: {arguments.out / 'gallery.html'}"]))
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


_LISTS = (
    *("recipes", "kinds", "sources", "corpora", "attributes", "steps", "tasks"),
    *("benchmarks", "presets", "prompts", "rules", "phantoms", "runs"),
)


def _plan(arguments: argparse.Namespace) -> int:
    from pathloom.forecast import plan_lines
    from pathloom.recipe import load_recipe

    for line in plan_lines(load_recipe(arguments.recipe, arguments.set), arguments.runs):
        print(line)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from pathloom.listing import list_lines

    for what in [arguments.what] if arguments.what else _LISTS:
        print(f"{what}:")
        for line in list_lines(what, arguments.runs):
            print(f"  {line}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from pathloom.listing import show_lines

    print("\n".join(show_lines(arguments.thing, arguments.runs, arguments.set)))
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from pathloom.listing import explain_lines

    print("\n".join(explain_lines(arguments.sample_id, arguments.runs)))
    return 0


def _score(arguments: argparse.Namespace) -> int:
    from pathloom.evaluate.score_file import score_file
    from pathloom.stage import UserError

    try:
        result = score_file(arguments.file, arguments.task, parse=arguments.parse, out=arguments.out)
    except ValueError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    print(json.dumps(result))
    return 0


def _review(arguments: argparse.Namespace) -> int:
    from pathloom.stage import UserError, find_stage

    if (arguments.apply is None) == (arguments.stage is None) or (arguments.apply is None) != (
        arguments.into is None
    ):
        raise UserError("give a stage folder to write a page, or --apply EXPORT.jsonl with --into FILE.jsonl")
    if arguments.apply is not None:
        from pathloom.curate.decisions import apply_export, merge_lines

        merged = apply_export(arguments.apply, arguments.into, arguments.out)
        print("\n".join(merge_lines(merged, arguments.into)))
        return 0
    from pathloom.curate.review import page_lines, samples_of, write_page

    found = find_stage(arguments.stage, arguments.runs)
    folder, samples = samples_of(str(found or arguments.stage), arguments.runs)
    page = write_page(
        samples,
        arguments.out,
        field=arguments.field,
        title=f"{arguments.field} of {folder.name}",
        limit=arguments.limit,
        order=arguments.order,
        seed=arguments.seed,
    )
    print("\n".join(page_lines(page, arguments.out, arguments.field)))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from pathloom.doctor import examine

    healthy = True
    for check in examine():
        healthy &= check.ok
        print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.finding}")
        if not check.ok:
            print(f"     cure: {check.cure}")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
