"""Grades a JSON-lines file of somebody's published outputs with the project's own parsers and metrics."""

import json
import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pathloom.evaluate.metrics import Scored, measure, resampling_unit
from pathloom.schema import Image, Origin, Region, Sample
from pathloom.tasks import find_task
from pathloom.tasks.parsing import normalise, read_letter
from pathloom.tasks.task import Task

LETTERS = tuple(string.ascii_uppercase)
UNKNOWN_SIZE_PX = 1_000_000
"""Side of the stand-in picture: as large as any coordinate that is read, so that no box is cut at its edge."""


@dataclass(frozen=True)
class _Line:
    """One line of the file: where it stands, for messages, and what it holds."""

    where: str
    number: int
    values: Mapping[str, Any]

    def error(self, key: str, fault: str, cure: str) -> ValueError:
        return ValueError(f"{self.where}: {key}: {fault}; {cure}")

    def text(self, key: str) -> str | None:
        """The value of an optional key as text; a whole number is written out."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, str):
            return value
        if type(value) is int:
            return str(value)
        raise self.error(
            key, f"{json.dumps(value)[:80]} is neither text nor a whole number", "write it in quotes"
        )


def score_file(
    path: Path,
    task_name: str,
    *,
    parse: Literal["tagged", "free"] = "tagged",
    num_resamples: int = 2000,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Grade every line of `path` as answers to `task_name`, and write the grades to `out` if given.

    A line is a JSON object with `completion` and `answer` (text or whole number), or for boxes `regions`
    [[x1,y1,x2,y2], ...] in the frame that the completion uses. Optional: `choices` (option texts; `answer` is then
    a text or a letter; choice without them takes the letters A to Z), `id`, `group` (resampled together; one a
    line by default), `question`. Other keys are passed over.

    `parse` "tagged" wants one answer block; "free" reads models that were never taught it (`pathloom.tasks.free`).

    The result holds plain JSON: task, metric, parse, n, num_groups, resampled ("group" or "sample"), value, low,
    high (of the task's metric), chance, parse_rate, the further metrics by name, and `intervals`
    {metric: [low, high]}. A metric that cannot be computed is None. `out` gets one JSON object a line: id, group,
    answer (None: not parsed), correct, parts.
    Raises ValueError that names file, line, key and cure, and OSError for a file that cannot be read or written.
    """
    task = find_task(task_name)
    if task.grade_drawn is not None:
        raise ValueError(
            f"task {task_name} is graded by masks drawn in the picture, and a file of outputs holds none; score its "
            "boxes as task boxes"
        )
    if parse not in ("tagged", "free"):
        raise ValueError(f"parse is {parse!r}; it must be 'tagged' or 'free'")
    template = next(template for template in task.templates if template.frame == "px")
    scored: list[Scored] = []
    place_of_id: dict[str, int] = {}
    for line in _read_lines(path):
        sample = _to_sample(line, task)
        first = place_of_id.setdefault(sample.id, line.number)
        if first != line.number:
            raise line.error("id", f"{sample.id!r} also stands in line {first}", "give every line its own id")
        completion = line.values.get("completion")
        if not isinstance(completion, str):
            raise line.error("completion", "missing or not text", "give the model's whole output as text")
        scored.append(Scored(sample, task.score(sample, completion, template, free=parse == "free")))
    if not scored:
        raise ValueError(f"{path}: no lines to score; write one JSON object a line")
    if out is not None:
        _write_grades(scored, out)
    return _summarise(task, parse, scored, seed, num_resamples)


def _summarise(task: Task, parse: str, scored: list[Scored], seed: int, num_resamples: int) -> dict[str, Any]:
    intervals = measure(task, scored, seed=seed, num_resamples=num_resamples)
    primary = intervals[task.metric]
    return {
        "task": task.name,
        "metric": task.metric,
        "parse": parse,
        "n": len(scored),
        "num_groups": len({one.sample.origin.cluster for one in scored}),
        "resampled": resampling_unit(scored),
        "value": _plain(primary.value),
        "low": _plain(primary.low),
        "high": _plain(primary.high),
        "chance": task.chance([one.sample for one in scored]),
        **{name: _plain(interval.value) for name, interval in intervals.items()},
        "intervals": {
            name: [_plain(interval.low), _plain(interval.high)] for name, interval in intervals.items()
        },
    }


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _read_lines(path: Path) -> Iterator[_Line]:
    """The JSON objects of a file; blank lines are passed over."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path}:{number}"
            if not raw.strip():
                continue
            try:
                values = json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{where}: not a line of JSON ({error}); write one JSON object a line"
                ) from None
            if not isinstance(values, dict):
                raise ValueError(
                    f"{where}: a JSON {type(values).__name__}, not an object; write one object a line"
                )
            yield _Line(where, number, values)


def _to_sample(line: _Line, task: Task) -> Sample:
    name = line.text("id") or f"line-{line.number}"
    group = line.text("group") or f"line-{line.number}"
    boxes = task.name == "boxes"
    choices = _choices(line, task)
    picture = Image(path="unknown", width_px=UNKNOWN_SIZE_PX, height_px=UNKNOWN_SIZE_PX)
    question, answer = line.text("question") or "", "" if boxes else _answer(line, choices)
    regions = _regions(line) if boxes else ()
    try:
        sample = Sample(
            id=name,
            task=task.name,
            split="test",
            images=(picture,) if boxes else (),
            question=question,
            choices=choices,
            answer=answer,
            regions=regions,
            origin=Origin(source="published outputs", source_id=name, licence="unknown", group=group),
        )
        task.truth(sample)
    except ValueError as error:
        raise line.error("answer", str(error), f"give an answer that the task {task.name} can have") from None
    return sample


def _choices(line: _Line, task: Task) -> tuple[str, ...]:
    choices = line.values.get("choices")
    if choices is None:
        return LETTERS if task.name == "choice" else ()
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
        raise line.error("choices", "not a list of texts", 'give the option texts, ["benign", "malignant"]')
    if task.name == "choice" and len(choices) > len(LETTERS):
        raise line.error(
            "choices", f"{len(choices)} options", f"a choice question has {len(LETTERS)} at most"
        )
    return tuple(choices)


def _answer(line: _Line, choices: tuple[str, ...]) -> str:
    """The truth as text. Among choices an option's own text comes first, then a letter."""
    answer = line.text("answer")
    if answer is None or not answer.strip():
        raise line.error("answer", "missing or empty", "give the right answer as text or whole number")
    if not choices:
        return answer.strip()
    for choice in choices:
        if normalise(choice) == normalise(answer):
            return choice
    index = read_letter(answer, len(choices))
    if index is None:
        shown = "the letters A to Z" if choices == LETTERS else json.dumps(choices)
        raise line.error(
            "answer", f"{answer!r} is not among {shown[:200]}", "give an option's text or its letter"
        )
    return choices[index]


def _regions(line: _Line) -> tuple[Region, ...]:
    rows = line.values.get("regions")
    if not isinstance(rows, list):
        raise line.error("regions", "missing or not a list", "give the true boxes as [[x1,y1,x2,y2], ...]")
    regions = []
    for row in rows:
        if not (isinstance(row, list) and len(row) == 4 and all(type(edge) in (int, float) for edge in row)):
            raise line.error("regions", f"{json.dumps(row)[:80]} is not four numbers", "write [x1,y1,x2,y2]")
        try:
            x1, y1, x2, y2 = map(float, row)
            regions.append(Region(box_px=(x1, y1, x2, y2)))
        except (ValueError, OverflowError):
            fault = f"{json.dumps(row)[:80]} has no area"
            raise line.error("regions", fault, "x1 < x2 and y1 < y2 are needed") from None
    return tuple(regions)


def _write_grades(scored: list[Scored], out: Path) -> None:
    """Written beside and renamed, so that a file that exists is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"{out.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        for one in scored:
            grade = {"id": one.sample.id, "group": one.sample.origin.group, **asdict(one.score)}
            file.write(json.dumps(grade) + "\n")
    unfinished.replace(out)
