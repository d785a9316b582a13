"""The command `phantom`: a synthetic book or slide whose truth is known."""

import argparse
from pathlib import Path

_PHANTOM = """\
Draw something whose truth is known.

book   a synthetic pathology book: columns, captions, composite figures of drawn tissue, prose that names them. Beside
       it stands BOOK.truth.jsonl, in the form in which books are found, so that errors can be measured
slide  a synthetic whole slide at 1 um per pixel as pyramidal TIFF, with a lesion of 1.5 to 5 % of the tissue unless
       it is normal. Beside it stands its outlines as .geojson, which QuPath opens
"""
_PHANTOM_EPILOG = """\
examples:
  pathloom phantom book --out phantom.pdf
  pathloom ingest books phantom.pdf --out phantom --set truth=phantom.truth.jsonl
  (open phantom/gallery.html; what went wrong stands in phantom/mistakes.txt)
  pathloom phantom slide --out slide.tiff --label necrosis --extent small
  pathloom phantom slide --out big.tiff --pixels 1e9
"""


def add_phantom(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of all commands."""
    phantom = commands.add_parser(
        "phantom",
        help="draw a synthetic book or whole slide whose truth is known",
        description=_PHANTOM,
        epilog=_PHANTOM_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    phantom.add_argument("thing", choices=("book", "slide"))
    phantom.add_argument("--out", type=Path, required=True, metavar="FILE", help="BOOK.pdf or SLIDE.tiff")
    phantom.add_argument("--seed", type=int, default=0)
    book = phantom.add_argument_group("book")
    book.add_argument("--pages", type=int, default=12, help="about so many (default: 12)")
    book.add_argument(
        "--style", default="textbook", help="textbook (default), journal, atlas, ... or chinese"
    )
    book.add_argument(
        "--scan", type=Path, metavar="DIR", help="also write its pages as poor scans, with truth"
    )
    slide = phantom.add_argument_group("slide")
    slide.add_argument(
        "--pixels", type=float, default=1e7, help="about so many, as a square (default: 1e7; 1e9 in minutes)"
    )
    slide.add_argument(
        "--label",
        default="adenocarcinoma",
        help="adenocarcinoma (default), squamous cell carcinoma, necrosis, or normal",
    )
    slide.add_argument("--extent", default="larger", help="small or larger (default)")
    phantom.set_defaults(command=_phantom)


def _phantom(arguments: argparse.Namespace) -> int:
    from pathloom.stage import UserError

    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: give 0 or more")
    truth = arguments.out.with_suffix(".geojson" if arguments.thing == "slide" else ".truth.jsonl")
    for path in (arguments.out, truth):
        if path.exists():
            raise UserError(f"--out {arguments.out}: {path} is there already; move it or choose another name")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    return _book(arguments) if arguments.thing == "book" else _slide(arguments)


def _slide(arguments: argparse.Namespace) -> int:
    from pathloom.phantom.slide import EXTENTS, LESIONS, MIN_SIDE_PX, NORMAL, plan_slide, write_slide
    from pathloom.slides.write import DOWNSAMPLES
    from pathloom.stage import UserError

    if arguments.label not in (NORMAL, *LESIONS):
        raise UserError(f"--label {arguments.label}: there is {', '.join((NORMAL, *LESIONS))}")
    if arguments.extent not in EXTENTS[1:]:
        raise UserError(f"--extent {arguments.extent}: there is {', '.join(EXTENTS[1:])}")
    if not MIN_SIDE_PX**2 <= arguments.pixels <= 4e9:
        raise UserError(f"--pixels {arguments.pixels:g}: between {MIN_SIDE_PX**2:.1e} and 4e9 are drawn")
    if arguments.out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--out {arguments.out}: a slide is written as .tiff")
    # Whole blocks of every level, so that each is exactly as much smaller as it says.
    side_px = -(-int(arguments.pixels**0.5) // DOWNSAMPLES[-1]) * DOWNSAMPLES[-1]
    extent = "none" if arguments.label == NORMAL else arguments.extent
    plan = plan_slide(
        arguments.seed, label=arguments.label, extent=extent, width_px=side_px, height_px=side_px
    )
    write_slide(plan, arguments.out, quiet=False)
    known = f"{side_px} x {side_px} px at {plan.mpp:g} um, {plan.label}, {100 * plan.lesion_share:.1f} % of the tissue"
    print(f"{arguments.out}: {known}; truth in {arguments.out.with_suffix('.geojson')}")
    return 0


def _book(arguments: argparse.Namespace) -> int:
    from pathloom.phantom.book import write_book
    from pathloom.phantom.book_style import HOUSES
    from pathloom.phantom.scan import scan_book
    from pathloom.stage import UserError

    if arguments.style not in HOUSES:
        raise UserError(f"--style {arguments.style}: known styles are {', '.join(HOUSES)}")
    if arguments.pages < 1:
        raise UserError(f"--pages {arguments.pages}: at least 1 is needed")
    truth = write_book(arguments.out, num_pages=arguments.pages, seed=arguments.seed, style=arguments.style)
    books = {arguments.out.with_suffix(".truth.jsonl"): truth.model_copy(update={"name": arguments.out.stem})}
    if arguments.scan is not None:
        scanned = scan_book(arguments.out, arguments.scan, truth, seed=arguments.seed)
        path = arguments.scan.with_name(arguments.scan.name + ".truth.jsonl")
        if path in books:
            raise UserError(
                f"--scan {arguments.scan}: its truth would be written over the PDF's; choose another name"
            )
        books[path] = scanned.model_copy(update={"name": arguments.scan.name})
    for path, book in books.items():
        path.write_text(book.model_dump_json() + "\n", encoding="utf-8")
    known = f"{truth.num_pages} pages, {len(truth.figures)} figures, {len(truth.references)} references"
    print(f"{arguments.out}: {known}; truth in {', '.join(map(str, books))}")
    return 0
