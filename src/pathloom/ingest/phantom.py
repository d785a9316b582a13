"""Source `phantom`: questions about synthetic tissue and cells whose truth is known because we drew them.

Each picture gets one question. Attributes that a question asks about are dealt evenly (every diagnosis, count, letter
and yes/no equally often), so that chance is what it looks like.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pathloom.ingest.drawn import Deal, Drawn, DrawnConfig, Fields, Question, counted, sentences
from pathloom.ingest.phantom_cells import CELL_QUESTIONS
from pathloom.ingest.phantom_pairs import CAPTION_WORDING, PAIR_QUESTIONS, UNSEEN_CAPTIONS
from pathloom.ingest.phantom_regions import REGION_QUESTIONS
from pathloom.ingest.source import Source
from pathloom.phantom.cell import BETHESDA, Cell, draw_cell
from pathloom.phantom.shapes import reading_order
from pathloom.phantom.tissue import DIAGNOSES, MIN_SIZE_PX, STAINS, Tissue, draw_tissue
from pathloom.schema import Box, Drop, Region, Sample

NUM_OPTIONS = 6
"""All six diagnoses, letters A to F as in Patho-R1: an answer in words is then always one of the options."""
MAX_MITOSES = 4
MAX_STRUCTURES = 3
COUNTED_IN = ("benign glands", "adenocarcinoma", "squamous cell carcinoma")
"""Diagnoses whose structures have an outline that can be counted, up to MAX_STRUCTURES of them."""


def _drawn(picture: Tissue | Cell) -> Drawn:
    return Drawn(picture.pixels_rgb, getattr(picture, "mpp", None))


def _truth(tissue: Tissue, *conclusions: str) -> str:
    """What can be seen, whatever is asked: reasoning written from it teaches every observation with every question."""
    return sentences(*tissue.observations(), *conclusions)


def _shown(tissue: Tissue, deal: Deal, fields: Fields) -> tuple[Drawn, Fields]:
    """With the boxes of glands, nests and the like, whatever is asked: a vision tower learns from all."""
    boxes = _boxes(tissue, deal.size_px)
    regions = tuple(Region(box_px=box, label=tissue.structure_name) for box in boxes)
    subfield = "ihc" if tissue.stain == "IHC" else "histopathology"
    return _drawn(tissue), {**fields, "regions": regions, "subfield": subfield}


def _located(tissue: Tissue, size_px: int) -> str:
    """Structures are named one after the other before they are counted or boxed."""
    boxes = _boxes(tissue, size_px)
    return sentences(*tissue.observations(), counted(f"{tissue.structure_name}s", boxes, size_px))


def _boxes(tissue: Tissue, size_px: int) -> list[Box]:
    """A set of boxes has no order, so one is fixed for the answers taught."""
    boxes = [(float(b[0]), float(b[1]), float(b[2]), float(b[3])) for b in tissue.structure_boxes_px]
    return sorted(boxes, key=lambda box: reading_order(box, size_px))


def _diagnosis(deal: Deal) -> tuple[Drawn, Fields]:
    name = DIAGNOSES[deal.index % len(DIAGNOSES)]
    others = [other for other in DIAGNOSES if other != name]
    options = [str(option) for option in deal.rng.permutation(others)[: NUM_OPTIONS - 1]]
    options.insert((deal.index // len(DIAGNOSES)) % NUM_OPTIONS, name)
    tissue = draw_tissue(deal.seed(), size_px=deal.size_px, diagnosis=name)
    return _shown(
        tissue,
        deal,
        {
            "choices": tuple(options),
            "answer": name,
            "finding": name,
            "context": _truth(tissue, f"This is {name}"),
        },
    )


def _presence(deal: Deal) -> tuple[Drawn, Fields]:
    name = DIAGNOSES[(deal.index // 2) % len(DIAGNOSES)]
    others = [other for other in DIAGNOSES if other != name]
    asked = name if deal.index % 2 else others[(deal.index // (2 * len(DIAGNOSES))) % len(others)]
    tissue = draw_tissue(deal.seed(), size_px=deal.size_px, diagnosis=name)
    return _shown(
        tissue,
        deal,
        {
            "what": asked,
            "answer": "yes" if asked == name else "no",
            "finding": name,
            "asked_finding": asked,
            # Both names side by side: a small model compares what stands close together.
            "context": _truth(tissue, f"Asked is {asked}", f"This is {name}"),
        },
    )


def _stain(deal: Deal) -> tuple[Drawn, Fields]:
    """Always asked about the same stain, so that the answer needs sight alone, and no comparing of words."""
    stain, asked = STAINS[deal.index % len(STAINS)], "IHC"
    tissue = draw_tissue(deal.seed(), size_px=deal.size_px, stain=stain)
    return _shown(
        tissue,
        deal,
        {
            "answer": "yes" if asked == stain else "no",
            "finding": stain,
            "asked_finding": asked,
            "context": _truth(tissue, f"The stain is {stain}"),
        },
    )


def _mitoses(deal: Deal) -> tuple[Drawn, Fields]:
    tissue = draw_tissue(deal.seed(), size_px=deal.size_px, num_mitoses=deal.index % (MAX_MITOSES + 1))
    return _shown(
        tissue,
        deal,
        {
            "answer": str(tissue.num_mitoses),
            "context": _truth(tissue, f"The number of mitoses is {tissue.num_mitoses}"),
        },
    )


def _structure_count(deal: Deal) -> tuple[Drawn, Fields]:
    """One to three glands or nests: drawn again until the picture holds as many as this question is dealt."""
    wanted = deal.index % MAX_STRUCTURES + 1
    name = COUNTED_IN[(deal.index // MAX_STRUCTURES) % len(COUNTED_IN)]
    for _ in range(1000):
        tissue = draw_tissue(deal.seed(), size_px=deal.size_px, diagnosis=name)
        if len(tissue.structure_boxes_px) == wanted:
            break
    else:
        raise RuntimeError(f"no phantom of {name} with {wanted} structures in 1000 draws")
    return _shown(
        tissue,
        deal,
        {
            "what": f"{tissue.structure_name}s",
            "answer": str(wanted),
            "context": _located(tissue, deal.size_px),
        },
    )


def _structures(deal: Deal) -> tuple[Drawn, Fields]:
    """Pictures are drawn until one holds a structure to find; a diagnosis without structures is passed over."""
    for attempt in range(100):
        tissue = draw_tissue(
            deal.seed(), size_px=deal.size_px, diagnosis=DIAGNOSES[(deal.index + attempt) % len(DIAGNOSES)]
        )
        if tissue.structure_name and len(tissue.structure_boxes_px):
            break
    else:
        raise RuntimeError("no phantom with a structure in 100 draws")
    return _shown(
        tissue,
        deal,
        {
            "what": tissue.structure_name,
            "context": _located(tissue, deal.size_px),
        },
    )


def _caption(deal: Deal) -> tuple[Drawn, Fields]:
    tissue = draw_tissue(deal.seed(), size_px=deal.size_px, diagnosis=DIAGNOSES[deal.index % len(DIAGNOSES)])
    return _shown(
        tissue,
        deal,
        {
            "answer": tissue.caption(deal.rng),
            "context": _truth(tissue, f"This is {tissue.diagnosis}"),
            "finding": tissue.diagnosis,
        },
    )


def _bethesda(deal: Deal) -> tuple[Drawn, Fields]:
    cell = draw_cell(deal.seed(), size_px=deal.size_px, bethesda=BETHESDA[deal.index % len(BETHESDA)])
    return _drawn(cell), {
        "choices": BETHESDA,
        "answer": cell.bethesda,
        "finding": cell.bethesda,
        "context": sentences(*cell.observations(), f"This is {cell.bethesda}"),
        "subfield": "cytology",
        "strata": (f"profile={'broken' if cell.broken else 'kept'}",),
    }


def _cell_caption(deal: Deal) -> tuple[Drawn, Fields]:
    cell = draw_cell(deal.seed(), size_px=deal.size_px, bethesda=BETHESDA[deal.index % len(BETHESDA)])
    return _drawn(cell), {
        "answer": cell.caption(deal.rng),
        "context": sentences(*cell.observations(), f"This is {cell.bethesda}"),
        "finding": cell.bethesda,
        "subfield": "cytology",
    }


QUESTIONS: tuple[Question, ...] = (
    Question(
        "diagnosis",
        "choice",
        (
            "What is the diagnosis?",
            "Which diagnosis fits this tissue?",
            "What does this region show?",
            "Name the diagnosis.",
            "Which of these is the diagnosis of this region?",
            "What does the tissue show?",
            "Name what this tissue shows.",
            "Which of these fits this tissue?",
        ),
        ("Name the diagnosis that fits this region.", "Which of these does the tissue show?"),
        _diagnosis,
    ),
    Question(
        "presence",
        "yes_no",
        (
            "Is this {what}?",
            "Does this tissue show {what}?",
            "Is {what} the diagnosis?",
            "Does {what} fit this tissue?",
            "Is the diagnosis {what}?",
            "Is this region {what}?",
            "Does the diagnosis of this region fit {what}?",
            "Does this region show {what}?",
        ),
        ("Does the diagnosis {what} fit this region?", "Is the diagnosis of this tissue {what}?"),
        _presence,
    ),
    Question(
        "stain",
        "yes_no",
        (
            "Is the stain IHC?",
            "Was this tissue stained by IHC?",
            "Is this an IHC stain?",
            "Is this tissue stained by IHC?",
            "Was the stain of this region IHC?",
            "Is this IHC?",
            "Was IHC used for this region?",
            "Is IHC what stained this tissue?",
        ),
        ("Was IHC the stain of this tissue?", "Is IHC the stain?"),
        _stain,
    ),
    Question(
        "mitoses",
        "count",
        (
            "How many mitoses are there?",
            "Count the mitoses.",
            "What is the number of mitoses?",
            "Give the count of mitoses.",
            "How many mitoses does this region show?",
            "Give how many mitoses there are.",
        ),
        ("Give the number of mitoses.", "How many are the mitoses?"),
        _mitoses,
    ),
    Question(
        "structure_count",
        "count",
        (
            "How many {what} are there?",
            "Count the {what}.",
            "What is the number of {what}?",
            "Give the count of {what}.",
            "How many {what} does this region show?",
            "Give how many {what} there are.",
        ),
        ("Give the number of {what}.", "How many are the {what}?"),
        _structure_count,
    ),
    Question(
        "structures",
        "boxes",
        (
            "Find each {what}.",
            "Where is each {what}?",
            "Mark every {what}.",
            "Find every {what}.",
            "Where in this tissue is every {what}?",
            "Mark each {what} of this region.",
        ),
        ("Where in this region is each {what}?", "Find every {what} of this tissue."),
        _structures,
    ),
    Question(
        "caption", "caption", ("Describe this tissue.",), ("What can be seen in this region?",), _caption
    ),
    Question(
        "bethesda",
        "label",
        ("Which Bethesda class is this cell?", "What is the class of this cell?", "Classify this cell."),
        ("Name the Bethesda class of the cell.", "Which class fits this cell?"),
        _bethesda,
    ),
    Question(
        "cell_caption", "caption", ("Describe this cell.",), ("What does this cell show?",), _cell_caption
    ),
    *CELL_QUESTIONS,
    *PAIR_QUESTIONS,
    *REGION_QUESTIONS,
)


class PhantomConfig(DrawnConfig):
    """Entry of a recipe: how many training and test pictures each kind of question gets."""

    version: ClassVar[int] = 7
    family: ClassVar[str] = "phantom"
    questions: ClassVar[tuple[Question, ...]] = QUESTIONS

    source: Literal["phantom"]
    size_px: int = Field(default=112, ge=MIN_SIZE_PX, le=1024)

    @field_validator("train")
    @classmethod
    def _unseen_captions_are_not_trained_on(cls, counts: dict[str, int]) -> dict[str, int]:
        for name in UNSEEN_CAPTIONS:
            if counts.get(name):
                raise ValueError(f"{name}: its wording is held out; it belongs in test")
        return counts

    def read(self, unit: Any) -> list[Sample | Drop]:
        records = super().read(unit)
        wording = CAPTION_WORDING.get(unit[0])
        if wording is None:
            return records
        strata = (f"wording={wording}",)
        return [r.model_copy(update={"strata": strata}) if isinstance(r, Sample) else r for r in records]


PHANTOM = Source("phantom", PhantomConfig, "synthetic tissue and cells with exact truth, drawn here")
