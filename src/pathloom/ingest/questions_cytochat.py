"""The question files of CytoChat (repository jaylinio/CytoChat, commit c1fafe6): three workbooks, no pictures.

- "Multiple choice questions": Image, Task, Class number, Prompt, Lable (so spelt). The prompt holds the question and
  the lettered options in brackets, the label is a letter with its option: `A.Benign.`. Where an option stands twice
  (one task's nine letters name seven grades), the first one is kept; "Class number" must be the number of different
  options.
- "Visual question answering": the prompt is a Python list of three questions, the same for every picture; the label is
  one text. It is a description, which is what the first question asks for: 71 of the 100 labels are word for word
  reports of the third workbook. So the first turn becomes a question, and each later turn, whose answer nobody gives,
  is a Drop. A label that is a list answers the turns in order, and a turn then has the ones before it as `earlier`.
- "Descriptive reporting": one prompt for all, the label is the report.

Prompts are written out with the roles of a chat (system, user, assistant); the user's words are the question.
"""

import ast
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_uppercase

from pathloom.ingest.questions_files import MAX_CELL_LENGTH, Question, Row, read_workbook
from pathloom.schema import Turn
from pathloom.stage import UserError
from pathloom.tasks.parsing import normalise, read_letter

LICENCE = "academic or non-commercial research (README of jaylinio/CytoChat)"
_AFTER_LETTER = ".):\uff0e\uff09\uff1a\u3001"  # with the full-width forms of Chinese typing


class _Fault(Exception):
    """What keeps a row from being a question."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_cytochat(folder: Path) -> Iterator[Question]:
    """The questions of those of the three workbooks that are there, in their order.

    Raises UserError for a folder without any of them, or with a workbook that is none of them.
    """
    found = _find_workbooks(folder)
    seen: set[str] = set()  # of all workbooks, so that names tell questions apart
    for kind, read in _READERS.items():
        if kind not in found:
            continue
        path = found[kind]
        columns = ("image", "prompt", *(("task",) if read is _choice else ()))
        for row in read_workbook(path, columns):
            place = f"{path.name}, row {row.number}"
            name = row.cells["image"].strip() or place
            try:
                _check(row, seen)
                yield from (one._replace(place=place, picture=name) for one in read(name, row.cells))
            except _Fault as fault:
                yield Question(name, place, reason=fault.reason, detail=f"{place}: {fault}")
            seen.add(name)


def _find_workbooks(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() != ".xlsx" or path.name.startswith(("~$", ".")):  # "~$": Excel's locks
            continue
        kind = next((kind for kind in _READERS if path.name.casefold().startswith(kind)), None)
        if kind is None or kind in found:
            why = f"{found[kind].name} is there too" if kind else "its name is none of the published ones"
            raise UserError(f"{path}: {why}; leave only the workbooks of CytoChat in the folder")
        found[kind] = path
    if not found:
        raise UserError(f"{folder}: no workbook whose name begins with {', '.join(_READERS)}")
    return found


def _check(row: Row, seen: set[str]) -> None:
    """Raises _Fault for a row that no kind of question can be read from."""
    image = row.cells["image"].strip()
    for column, text in row.cells.items():
        if len(text) > MAX_CELL_LENGTH:
            raise _Fault(
                "cell_too_long", f"{len(text)} characters under {column!r}; Excel has {MAX_CELL_LENGTH}"
            )
    if not image:
        raise _Fault("no_image_name", "no text under 'image'")
    if image in seen:
        raise _Fault("name_seen_before", f"an earlier row has the picture {image!r} too")
    if not row.cells["prompt"].strip():
        raise _Fault("no_prompt", "no text under 'prompt'")
    if not _label(row.cells):
        raise _Fault("no_label", "no text under 'lable'")


def _label(cells: dict[str, str]) -> str:
    return (cells.get("lable") or cells.get("label") or "").strip()


def _asked(prompt: str) -> str:
    """The user's words of a prompt that is written out as a chat; the prompt itself where it is not."""
    system, user, rest = prompt.strip().partition("\nuser\n")
    return (
        rest.strip().removesuffix("assistant").strip()
        if user and system.startswith("system")
        else prompt.strip()
    )


# ------------------------------------------------------------------------------------------------- multiple choice
def _choice(name: str, cells: dict[str, str]) -> Iterator[Question]:
    topic, lettered = _read_prompt(_asked(cells["prompt"]))
    options = _first_of_each(lettered)
    if len(options) < 2:
        raise _Fault("too_few_options", f"{len(options)} option: {', '.join(options)}")
    number = cells.get("class number", "").strip()
    if number and number != str(len(options)):
        raise _Fault(
            "other_number_of_options", f"class number {number}, but the options are {'; '.join(options)}"
        )
    answer = _find_answer(_label(cells), lettered)
    repeated = len(lettered) - len(options)
    task = "".join(
        "-" if unicodedata.category(sign) == "Pd" or sign == "\u2212" else sign for sign in cells["task"]
    )
    yield Question(
        name,
        "",
        task="choice",
        question=f"{topic}: which option is the best for this image?",
        choices=options,
        answer=next(option for option in options if normalise(option) == normalise(answer)),
        strata=(f"task={task.strip()}",) if task.strip() else (),
        note=f"{repeated} options that repeat another were left out" if repeated else "",
    )


def _read_prompt(asked: str) -> tuple[str, tuple[str, ...]]:
    """What the question is about, and its options by letter: "... [topic], and select ... [A.one, B.two]. ..."."""
    opening = list(re.finditer(rf"\[ ?\(?A ?[{_AFTER_LETTER}]", text := _one_space(asked)))
    closing = text.rfind("]")
    if not opening or closing < opening[-1].start():
        raise _Fault("unreadable_prompt", "no options in brackets, [A.one, B.two]")
    before = text[: opening[-1].start()]
    topic = before[before.find("[") + 1 : before.rfind("]")].strip() if "[" in before else ""
    if not topic:
        raise _Fault("unreadable_prompt", "no question in brackets before the options")
    options = _read_options(text[opening[-1].start() + 1 : closing])
    if not all(options):
        raise _Fault("unreadable_prompt", "an option without words")
    return topic, options


def _read_options(text: str) -> tuple[str, ...]:
    """ "A.one, two, B.three" -> ("one, two", "three"): a letter begins an option only when it is the next one."""
    bounds: list[tuple[int, int]] = []
    for letter in ascii_uppercase:
        bullet = re.compile(rf"(?:^|[,;\uff0c\uff1b\u3001\n]) ?\(?{letter} ?[{_AFTER_LETTER}]")
        match = bullet.search(text, bounds[-1][1] if bounds else 0)
        if match is None:
            break
        bounds.append(match.span())
    ends = [start for start, _ in bounds[1:]] + [len(text)]
    return tuple(text[begin:end].strip() for (_, begin), end in zip(bounds, ends, strict=False))


def _first_of_each(lettered: tuple[str, ...]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for option in lettered:
        first.setdefault(normalise(option), option)
    return tuple(first.values())


def _find_answer(label: str, lettered: tuple[str, ...]) -> str:
    """The option that a label means: by letter, by words, or by both. Raises _Fault where that is not one option."""
    index = read_letter(label, len(lettered))
    meant = [] if index is None else [lettered[index]]
    meant += [option for option in lettered if normalise(option) == normalise(label)]
    both = re.fullmatch(rf"\(?([A-Z])\s*[{_AFTER_LETTER}](.+)", label, re.DOTALL)
    if both is not None and (place := ascii_uppercase.index(both[1])) < len(lettered):
        meant += [lettered[place]] * (normalise(both[2]) == normalise(lettered[place]))
    if len({normalise(option) for option in meant}) != 1:
        raise _Fault(
            "label_is_no_option", f"{label!r} means {len(meant)} of the options {'; '.join(lettered)}"
        )
    return meant[0]


def _one_space(text: str) -> str:
    """Lines without blank ones, words with one space between: patterns then meet no long runs of space."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


# ------------------------------------------------------------------------------------------- turns, and reports
def _dialogue(name: str, cells: dict[str, str]) -> Iterator[Question]:
    prompts, labels = _read_list(cells["prompt"]), _read_list(_label(cells)) or [_label(cells)]
    if not prompts:
        raise _Fault("unreadable_prompt", "no Python list of texts under 'prompt'")
    if len(labels) > len(prompts):
        raise _Fault("more_labels_than_prompts", f"{len(labels)} labels for {len(prompts)} prompts")
    turns: tuple[Turn, ...] = ()
    for number, prompt in enumerate(prompts, start=1):
        turn_name, question = f"{name}/turn-{number}", _asked(prompt)
        if number > len(labels):
            detail = f"{name}: turn {number} of {len(prompts)} has no answer of its own: {question}"
            yield Question(turn_name, "", reason="turn_without_answer", detail=detail)
            continue
        answer = labels[number - 1].strip()
        yield Question(
            turn_name,
            "",
            task="dialogue",
            question=question,
            answer=answer,
            earlier=turns,
            note=f"turn {number} of {len(prompts)}",
        )
        turns += (Turn(question=question, answer=answer),)


def _read_list(text: str) -> list[str]:
    """The texts of a Python list of texts, none of them blank; [] for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about backslashes that escape nothing
            value = ast.literal_eval(text.strip())
        good = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
        return [one.encode().decode() for one in value] if good else []
    except (
        ValueError,
        SyntaxError,
        TypeError,
        RecursionError,
        MemoryError,
    ):  # halves of surrogate pairs, deep nesting
        return []


def _report(name: str, cells: dict[str, str]) -> Iterator[Question]:
    yield Question(name, "", task="report", question=_asked(cells["prompt"]), answer=_label(cells))


_READERS: dict[str, Callable[[str, dict[str, str]], Iterator[Question]]] = {
    "multiple choice": _choice,
    "visual question answering": _dialogue,
    "descriptive reporting": _report,
}
"""Begins the name of a workbook, in lower case -> how its rows are read."""
