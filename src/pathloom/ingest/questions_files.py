"""What formats of question files share: a question as it was published, and workbooks (*.xlsx) read with care.

A workbook comes from elsewhere. Nothing in it is computed: a formula counts by the value that was saved with it. XML
that declares entities is refused (defusedxml, which openpyxl uses when it is there; without it nothing is read). What
it may weigh is bounded before it is parsed, by the caps below.
"""

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from pathloom.schema import Turn
from pathloom.stage import UserError

MAX_UNPACKED_BYTES = 8 * 2**20
"""Of the parts of a workbook together, and of the texts of its cells; the file itself may weigh no more either. Our own
choice: 50 times the largest published one.
"""
MAX_OTHER_BYTES = 2**20
"""Of its parts that hold no cells or texts, styles above all, which openpyxl keeps in full. Our own choice: 30 times
the largest published ones.
"""
MAX_CELL_LENGTH = 32_767
"""Characters of a cell; Excel specifications and limits, support.microsoft.com."""
MAX_ROWS = 1_048_576
"""The same page. Published sheets declare about as many and fill some hundred."""
MAX_COLUMNS = 26
"""A to Z. Our own choice."""
_PARTS_OF_CELLS = ("xl/worksheets/sheet", "xl/sharedStrings.xml")


class Question(NamedTuple):
    """A question of a file, or (`reason` is not "") what is wrong with it.

    `name` tells it from all others of the format, `picture` is the name of its picture without folder and suffix.
    `place` is the file and the row.
    """

    name: str
    place: str
    picture: str = ""
    task: str = ""
    question: str = ""
    choices: tuple[str, ...] = ()
    answer: str = ""
    earlier: tuple[Turn, ...] = ()
    strata: tuple[str, ...] = ()
    note: str = ""
    reason: str = ""
    detail: str = ""


class Row(NamedTuple):
    """One filled row below the header. `cells`: heading in lower case -> text, "" where none stands."""

    number: int
    cells: dict[str, str]


def read_workbook(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The filled rows of all its sheets. The first one of a sheet is its header and must hold `columns`.

    Whole numbers are texts here; dates, fractions, errors such as #REF! and logical values are none. Columns beyond Z
    are not read. Raises UserError for a file that is no workbook, too large, or without one of the columns.
    """
    _refuse_heavy(path)
    length = 0
    try:
        for sheet, number, values in _filled_rows(path):
            if sheet.heading is None:
                sheet.heading = _heading(values, columns, f"{path.name}, sheet {sheet.title}")
                continue
            texts = [_text(value) for value in values]
            length += sum(map(len, texts))
            if length > MAX_UNPACKED_BYTES:
                raise UserError(
                    f"{path}: its cells hold more than {MAX_UNPACKED_BYTES} characters; give it in parts"
                )
            yield Row(number, {name: text for name, text in zip(sheet.heading, texts, strict=True) if name})
    except UserError:
        raise
    except Exception as error:  # the file boundary: openpyxl raises whatever a broken part led it to
        why = error.__cause__ or error
        raise UserError(f"{path}: cannot be read as a workbook ({type(why).__name__}: {why})") from error


class _Sheet:
    def __init__(self, title: str) -> None:
        self.title = title
        self.heading: list[str] | None = None


def _filled_rows(path: Path) -> Iterator[tuple[_Sheet, int, tuple[Any, ...]]]:
    import openpyxl

    if not openpyxl.DEFUSEDXML:
        raise UserError(
            f"{path}: is not read without defusedxml; install it, and leave OPENPYXL_DEFUSEDXML unset"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles and validations, of which nothing is used
        book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
    with closing(book):
        for sheet in book.worksheets:
            one = _Sheet(sheet.title)
            # The declared size is not believed: rows and columns are bounded here.
            rows = sheet.iter_rows(min_row=1, max_row=MAX_ROWS, max_col=MAX_COLUMNS, values_only=True)
            for number, values in enumerate(rows, start=1):
                if values.count(None) < len(values):
                    yield one, number, values


def _refuse_heavy(path: Path) -> None:
    """Raises UserError; what passes cannot unpack to more, since zipfile reads no more of a part than it declares."""
    sizes = {"bytes": (path.stat().st_size, MAX_UNPACKED_BYTES)}
    if path.stat().st_size <= MAX_UNPACKED_BYTES:
        try:
            with zipfile.ZipFile(path) as archive:
                parts = archive.infolist()
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{path}: not a workbook (*.xlsx without a password): {error}") from error
        others = [part for part in parts if not part.filename.startswith(_PARTS_OF_CELLS)]
        sizes["bytes unpacked"] = (sum(part.file_size for part in parts), MAX_UNPACKED_BYTES)
        sizes["bytes beside cells and texts"] = (sum(part.file_size for part in others), MAX_OTHER_BYTES)
    for what, (size, most) in sizes.items():
        if size > most:
            raise UserError(
                f"{path}: {size} {what}, at most {most} are read; save the rows alone, or in parts"
            )


def _heading(values: Sequence[Any], columns: Sequence[str], place: str) -> list[str]:
    heading = [_text(value).strip().casefold() for value in values]
    for column in columns:
        if heading.count(column) != 1:
            found = ", ".join(filter(None, heading)) or "none"
            times = "stands twice" if column in heading else "is missing"
            raise UserError(f"{place}: the column {column!r} {times}; its first row has {found}")
    return heading


def _text(value: Any) -> str:
    from openpyxl.cell.cell import ERROR_CODES

    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value not in ERROR_CODES else ""
