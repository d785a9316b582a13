"""Source `questions`: question files that others published as a benchmark; each question a Sample of split `test`.

    {name: cytochat, kind: ingest, source: questions, path: FOLDER, images: PICTURES}

Such files often come without their pictures. With `images`, a folder, each question needs its own, found by name with
any suffix that images.py reads, in any folder below; one that is missing is a Drop. Without `images` no Sample has a
picture, which its history and the stratum "picture=none" say: a number measured on them is of a model that sees
nothing.

- `format` names the files; what is in them and how it is read stands in the file of the format.
- Each picture is a group of its own. The files name no patient, and pictures of one patient may well be among them:
  intervals are then too narrow.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from pathloom.images import SUFFIXES, BadImage, read_image
from pathloom.ingest.pictures import size_and_time
from pathloom.ingest.questions_cytochat import LICENCE, read_cytochat
from pathloom.ingest.questions_files import Question
from pathloom.ingest.source import IngestConfig, Source, fingerprint
from pathloom.schema import TEST_SPLIT, Drop, Event, Image, Origin, Sample
from pathloom.stage import UserError

STEP = "ingest.questions"
NO_PICTURE = "picture=none"


class _Format(NamedTuple):
    read: Callable[[Path], Iterator[Question]]
    licence: str
    subfield: str


_FORMATS = {"cytochat": _Format(read_cytochat, LICENCE, "cytology")}


class Unit(NamedTuple):
    """A question, with the file of its picture where pictures are wanted."""

    question: Question
    path: str = ""
    size_and_time: tuple[int, int] = (0, 0)


class QuestionsConfig(IngestConfig):
    """Entry of a recipe: `{name: cytochat, kind: ingest, source: questions, path: FOLDER}`."""

    version: ClassVar[int] = 1

    source: Literal["questions"]
    format: Literal["cytochat"] = Field(default="cytochat", description="whose files they are")
    path: Path = Field(description="folder of the question files")
    images: Path | None = Field(default=None, description="folder of the pictures; unset: nothing is shown")
    licence: str | None = Field(default=None, description="unset: the one that the publisher states")

    def check(self) -> None:
        for key, folder in (("path", self.path), ("images", self.images)):
            if folder is not None and not folder.is_dir():
                raise UserError(f"{self.name}.{key}: {folder} is not a folder")
        if all(unit.question.reason for unit in self.plan()):
            first = next((unit.question.detail for unit in self.plan()), "no row below the header")
            raise UserError(f"{self.name}.path: {self.path} holds no question that can be read: {first}")

    def fingerprint(self) -> str:
        """ "" for folders that `check` refuses: a recipe can be shown where its data are not."""
        there = self.path.is_dir() and (self.images is None or self.images.is_dir())
        return fingerprint(self.plan()) if there else ""

    def plan(self) -> Sequence[Unit]:
        return self._units

    @cached_property
    def _units(self) -> Sequence[Unit]:
        pictures = _find_pictures(self.images) if self.images else {}
        return [self._unit(question, pictures) for question in _FORMATS[self.format].read(self.path)]

    def _unit(self, question: Question, pictures: dict[str, list[Path]]) -> Unit:
        if question.reason or self.images is None:
            return Unit(question)
        files = pictures.get(question.picture, [])
        if not files:
            detail = f"{question.place}: no picture {question.picture} in {self.images}"
            return Unit(question._replace(reason="missing_image", detail=detail))
        if len(files) > 1:
            detail = f"{question.place}: several pictures: {', '.join(map(str, files))}"
            return Unit(question._replace(reason="several_images", detail=detail))
        return Unit(question, str(files[0].resolve()), size_and_time(files[0]))

    def read(self, unit: Unit) -> list[Sample | Drop]:
        question, form = unit.question, _FORMATS[self.format]
        sample_id = f"{self.format}/{question.name}"
        if question.reason:
            return [Drop(sample_id=sample_id, step=STEP, reason=question.reason, detail=question.detail)]
        images: tuple[Image, ...] = ()
        if unit.path:
            try:
                images = (read_image(Path(unit.path)),)
            except BadImage as error:
                return [Drop(sample_id=sample_id, step=STEP, reason=error.reason, detail=str(error))]
        notes = (question.note, "" if images else "no picture: `images` was not given")
        return [
            Sample(
                id=sample_id,
                task=question.task,
                split=TEST_SPLIT,
                images=images,
                question=question.question,
                choices=question.choices,
                answer=question.answer,
                earlier=question.earlier,
                subfield=form.subfield,
                strata=(*question.strata, *(() if images else (NO_PICTURE,))),
                origin=Origin(
                    source=self.format,
                    source_id=question.place,
                    licence=self.licence or form.licence,
                    group=question.picture,
                ),
                history=(Event(step=STEP, version=self.version, note="; ".join(filter(None, notes))),),
            )
        ]


QUESTIONS = Source(
    "questions", QuestionsConfig, "published question files: CytoChat's workbooks, with or without pictures"
)


def _find_pictures(folder: Path) -> dict[str, list[Path]]:
    """Name without suffix -> files, in any folder below."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found.setdefault(path.stem, []).append(path)
    return found
