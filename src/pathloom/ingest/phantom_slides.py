"""Source `phantom_slides`: whole synthetic slides with a known lesion, and three questions about each.

    {name: slides, kind: ingest, source: phantom_slides, train: 160, test: 80}

Slides are drawn into the stage's folder as pyramidal TIFFs with their truth beside them as GeoJSON (`files/`), then
read as `ingest slides` reads any slide: tissue, tiles, tables. Labels, extents and answers are dealt evenly; a slide
stands in one split with all its questions. A killed run goes on at the slide where it stopped.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from tqdm import tqdm

from pathloom.ingest.drawn import sentences
from pathloom.ingest.slides_read import read_slides_into
from pathloom.ingest.source import Source, WholeIngest
from pathloom.phantom.slide import EXTENTS, LESIONS, MIN_SIDE_PX, NORMAL, SlidePlan, plan_slide, write_slide
from pathloom.schema import Drop, Event, Image, Origin, Sample
from pathloom.slides.reader import need_slides_extra
from pathloom.slides.record import read_records
from pathloom.stage import UserError
from pathloom.store import count_records, write_shard

FILES_FOLDER = "files"
LABELS: tuple[str, ...] = (NORMAL, *LESIONS)
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class _Wording:
    """Of one question: its task, wordings of training and test, and those of test only, as in ingest/drawn.py."""

    task: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]


_WORDINGS: Mapping[str, _Wording] = {
    "slide_label": _Wording(
        "label",
        (
            "What does this slide show?",
            "What is the diagnosis of this slide?",
            "Name what this slide shows.",
            "Which of these fits this slide?",
        ),
        ("Name the diagnosis of this slide.", "Which of these does this slide show?"),
    ),
    "slide_presence": _Wording(
        "yes_no",
        (
            "Does this slide hold {what}?",
            "Is there {what} on this slide?",
            "Does this slide show {what}?",
            "Is {what} on this slide?",
        ),
        ("Is there {what} that this slide shows?", "Does {what} show on this slide?"),
    ),
    "slide_extent": _Wording(
        "ordinal",
        (
            "What is the extent of the lesion on this slide?",
            "Which extent does the lesion of this slide have?",
            "Name the extent of the lesion.",
            "How large is the lesion on this slide?",
        ),
        ("Name the extent of the lesion on this slide.", "Which is the extent of the lesion?"),
    ),
}
QUESTIONS: tuple[str, ...] = tuple(_WORDINGS)


@dataclass(frozen=True)
class DealtSlide:
    """What the slide of this place in its split is dealt, before anything is drawn."""

    split: str
    index: int
    seed: int

    @property
    def name(self) -> str:
        """Of the slide and its file; holds the seed, since slides of several stages may be read together."""
        return f"phantom-{self.seed}-{self.split}-{self.index:05d}"

    @property
    def label(self) -> str:
        return LABELS[self.index % len(LABELS)]

    @property
    def extent(self) -> str:
        return "none" if self.label == NORMAL else EXTENTS[1 + self.index // len(LABELS) % 2]

    @property
    def asked(self) -> str:
        """The lesion that the yes/no question names: each equally often, and present in half of the slides."""
        turn = self.index // len(LABELS)
        if self.label == NORMAL:
            return LESIONS[turn % len(LESIONS)]
        if turn % 3 < 2:
            return self.label
        others = [lesion for lesion in LESIONS if lesion != self.label]
        return others[turn // 3 % len(others)]

    def plan(self, side_px: int) -> SlidePlan:
        seed = int(np.random.default_rng([self.seed, self.split == "test", self.index]).integers(2**31))
        return plan_slide(seed, label=self.label, extent=self.extent, width_px=side_px, height_px=side_px)


class PhantomSlidesConfig(WholeIngest):
    """Entry of a recipe."""

    version: ClassVar[int] = 1

    source: Literal["phantom_slides"]
    train: int = Field(ge=0, description="number of training slides; multiples of 24 deal everything evenly")
    test: int = Field(default=0, ge=0, description="number of held-out slides")
    side_px: int = Field(
        default=3200, ge=MIN_SIDE_PX, le=20_000, description="width and height of a slide at 1 um per pixel"
    )
    mpp: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="of the tiles, micrometres per pixel"
    )
    size_px: int = Field(default=112, ge=16, le=2048, description="width and height of a tile")

    def check(self) -> None:
        if not self.train + self.test:
            raise UserError(f"{self.name}: train and test ask for no slide at all")
        need_slides_extra()

    def slides(self) -> list[DealtSlide]:
        """Every slide, those of training first."""
        sides = (("train", self.train), ("test", self.test))
        return [DealtSlide(split, index, self.seed) for split, count in sides for index in range(count)]

    def ingest(self, out: Path) -> dict[str, Any]:
        """Draw what is not drawn yet, read it, and ask three questions about each slide."""
        folder = out / FILES_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        paths: dict[str, Path] = {}
        samples: list[Sample] = []
        for dealt in tqdm(self.slides(), desc="phantom slides", leave=False):
            path = folder / f"{dealt.name}.tiff"
            plan = dealt.plan(self.side_px)
            if not path.exists():  # it appears whole, after its truth
                write_slide(plan, path, quality=_JPEG_QUALITY)
            paths[dealt.name] = path
            samples += self._samples(dealt, plan)
        # No tile drawn here is blurred, blank or written on, so none is read for that.
        read = read_slides_into(
            paths, out, mpp=self.mpp, size_px=self.size_px, title=self.name, check_tiles=False
        )
        there = {record.id for record, _ in read_records(out)}
        kept = [sample for sample in samples if sample.origin.group in there]
        drops = [_drop(sample) for sample in samples if sample.origin.group not in there]
        write_shard(kept, drops, out, 0)
        return {**count_records(out), **read}

    def _samples(self, dealt: DealtSlide, plan: SlidePlan) -> Iterator[Sample]:
        image = Image(
            path=f"{FILES_FOLDER}/{dealt.name}.tiff",
            width_px=plan.width_px,
            height_px=plan.height_px,
            mpp=plan.mpp,
            slide=dealt.name,
        )
        rng = np.random.default_rng([self.seed, dealt.split == "test", dealt.index, 1])
        unseen = dealt.split == "test" and (dealt.index // 4) % 2 == 1  # as in ingest/drawn.py
        for question in QUESTIONS:
            wording = _WORDINGS[question]
            wordings = wording.unseen if unseen else wording.seen
            asked = wordings[int(rng.integers(len(wordings)))].format(what=dealt.asked)
            yield Sample(
                id=f"{dealt.name}/{question}",
                task=wording.task,
                split=dealt.split,
                images=(image,),
                question=asked,
                subfield="histopathology",
                context=truth_of(plan),
                strata=(
                    f"wording={'unseen' if unseen else 'seen'}",
                    f"extent={plan.extent}",
                    f"background={plan.background}",
                ),
                origin=Origin(
                    source=f"phantom_{question}",
                    source_id=dealt.name,
                    licence="Apache-2.0",
                    group=dealt.name,
                ),
                history=(
                    Event(step="ingest.phantom_slides", version=self.version, note=f"seed {self.seed}"),
                ),
                **_answer(question, dealt),
            )


def _drop(sample: Sample) -> Drop:
    """`slides.csv` and the slide's folder say why."""
    return Drop(
        sample_id=sample.id, step="ingest.phantom_slides", reason="slide_refused", detail=sample.origin.group
    )


def _answer(question: str, dealt: DealtSlide) -> dict[str, Any]:
    if question == "slide_label":
        return {"choices": LABELS, "answer": dealt.label, "finding": dealt.label}
    if question == "slide_extent":
        return {"choices": EXTENTS, "answer": dealt.extent, "finding": dealt.label}
    return {
        "answer": "yes" if dealt.asked == dealt.label else "no",
        "finding": dealt.label,
        "asked_finding": dealt.asked,
    }


def truth_of(plan: SlidePlan) -> str:
    """What is on a slide, in words: background, benign foci, and the lesion with its share and boxes of level 0."""
    said = [f"The tissue is {plan.background}"]
    said += [f"A benign focus of {focus.kind} lies in it" for focus in plan.benign_foci]
    if not plan.lesions:
        return sentences(*said, "There is no lesion", f"This is {NORMAL}")
    for focus in plan.lesions:
        (x1, y1), (x2, y2) = focus.outline_l0.min(0), focus.outline_l0.max(0)
        said.append(f"{focus.kind} lies within {x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f} of level 0")
    share = f"The lesion takes {100 * plan.lesion_share:.1f} % of the tissue, which is {plan.extent}"
    return sentences(*said, share, f"This is {plan.label}")


PHANTOM_SLIDES = Source(
    "phantom_slides", PhantomSlidesConfig, "synthetic whole slides with a known lesion, drawn here"
)
