"""Source `tiles`: a folder of labelled tiles, one sub-folder a class.

    root/
      adenocarcinoma/ a.png b.png ...
      normal/         c.jpeg ...

`groups` and `group_pattern` (pictures.py) name a picture CLASS/FILE.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pathloom.images import SUFFIXES, BadImage, read_image
from pathloom.ingest.pictures import PicturesConfig, size_and_time
from pathloom.ingest.source import Source, fingerprint
from pathloom.schema import Drop, Event, Origin, Sample
from pathloom.stage import UserError


class TilesConfig(PicturesConfig):
    """Entry of a recipe: `{name: tiles, kind: ingest, source: tiles, root: FOLDER}`."""

    version: ClassVar[int] = 1

    source: Literal["tiles"]
    root: Path = Field(description="folder with one sub-folder for each class")
    dataset: str = Field(default="tiles", description="name under which the data are reported")
    question: str = "Which class is this tissue?"
    class_names: dict[str, str] = Field(
        default={}, description="folder name -> the words that the model answers"
    )

    def check(self) -> None:
        if not self.root.is_dir():
            raise UserError(
                f"{self.name}.root: {self.root} is not a folder; give the folder that holds the classes"
            )
        self.plan()

    def fingerprint(self) -> str:
        """ "" for a folder that `check` refuses: a recipe can be shown where its data are not."""
        return fingerprint(self.plan()) if self.root.is_dir() else ""

    @cached_property
    def _units(self) -> Sequence[Any]:
        files = self._files()
        decided = self.group_and_split(
            [f"{label}/{path.name}" for path, label in files], [label for _, label in files]
        )
        return [
            (str(path.resolve()), label, group, split, *size_and_time(path))
            for (path, label), (group, split) in zip(files, decided, strict=True)
        ]

    def plan(self) -> Sequence[Any]:
        return self._units

    def _folders(self) -> list[Path]:
        return sorted(folder for folder in self.root.iterdir() if folder.is_dir())

    def _files(self) -> list[tuple[Path, str]]:
        folders = self._folders()
        if len(folders) < 2:
            raise UserError(
                f"{self.name}.root: {self.root} needs a sub-folder for each of at least two classes"
            )
        files: list[tuple[Path, str]] = []
        for folder in folders:
            inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(
                    f"class folder {folder} holds no image ({', '.join(SUFFIXES)}): fill it or remove it"
                )
            files += [(path, folder.name) for path in inside]
        unknown = set(self.class_names) - {folder.name for folder in folders}
        if unknown:
            raise UserError(
                f"{self.name}.class_names: no class folder is called {', '.join(sorted(unknown))}"
            )
        return files

    def read(self, unit: Any) -> list[Sample | Drop]:
        path, label, group, split, *_ = unit
        sample_id = f"{self.dataset}/{label}/{Path(path).name}"
        try:
            image = read_image(Path(path), mpp=self.mpp)
        except BadImage as error:
            return [Drop(sample_id=sample_id, step="ingest.tiles", reason=error.reason, detail=str(error))]
        answers = {folder: self.class_names.get(folder, folder) for folder in self._class_folders}
        return [
            Sample(
                id=sample_id,
                task="label",
                split=split,
                images=(image,),
                question=self.question,
                choices=tuple(dict.fromkeys(answers.values())),  # two folders may hold one class
                answer=answers[label],
                finding=answers[label],
                origin=Origin(source=self.dataset, source_id=path, licence=self.licence, group=group),
                history=(Event(step="ingest.tiles", version=self.version),),
            )
        ]

    @cached_property
    def _class_folders(self) -> list[str]:
        return [folder.name for folder in self._folders()]


TILES = Source("tiles", TilesConfig, "a folder of labelled tiles, one sub-folder a class")
