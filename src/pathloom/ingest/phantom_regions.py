"""Questions of source `phantom` on fields of tumour: its cells to find and to outline, and its grade."""

from pathloom.ingest.drawn import Deal, Drawn, Fields, Question, counted, sentences
from pathloom.masks import region_of
from pathloom.phantom.shapes import reading_order
from pathloom.phantom.tissue import DIAGNOSES, draw_tissue
from pathloom.phantom.tumour import GRADES, MAX_TUMOUR_CELLS, draw_graded_field, draw_tumour_field

TUMOUR_CELL = "tumour cell"


def _tumour_cells(deal: Deal) -> tuple[Drawn, Fields]:
    """One to four cells, each number equally often; every Region carries its mask, whatever is asked."""
    field = draw_tumour_field(deal.seed(), size_px=deal.size_px, num_cells=deal.index % MAX_TUMOUR_CELLS + 1)
    regions = sorted(
        (region_of(mask, TUMOUR_CELL) for mask in field.masks),
        key=lambda region: reading_order(region.box_px, deal.size_px),
    )
    return Drawn(field.pixels_rgb, field.mpp), {
        "what": TUMOUR_CELL,
        "regions": tuple(regions),
        "subfield": "histopathology",
        "context": sentences(
            "Small cells lie around large ones",
            counted(f"{TUMOUR_CELL}s", [region.box_px for region in regions], deal.size_px),
        ),
    }


_SEEN: dict[str, tuple[str, ...]] = {
    "grade 1": ("The tumour builds round glands", "Each gland has one open lumen"),
    "grade 2": ("The tumour glands are fused", "Their lumina are small"),
    "grade 3": ("The tumour grows in solid nests", "The nests have no lumen"),
    "grade 4": ("The tumour cells lie loose", "Their nuclei are large and dark"),
}


def _grade(deal: Deal) -> tuple[Drawn, Fields]:
    grade = GRADES[deal.index % len(GRADES)]
    field = draw_graded_field(deal.seed(), size_px=deal.size_px, grade=grade)
    return Drawn(field.pixels_rgb, field.mpp), {
        "choices": GRADES,
        "answer": grade,
        "finding": grade,
        "subfield": "histopathology",
        "context": sentences(*_SEEN[grade], f"This is {grade}"),
    }


def _diagnosis_label(deal: Deal) -> tuple[Drawn, Fields]:
    """The diagnosis in words: no letter has to be bound to it."""
    name = DIAGNOSES[deal.index % len(DIAGNOSES)]
    tissue = draw_tissue(deal.seed(), size_px=deal.size_px, diagnosis=name)
    return Drawn(tissue.pixels_rgb, tissue.mpp), {
        "choices": DIAGNOSES,
        "answer": name,
        "finding": name,
        "subfield": "ihc" if tissue.stain == "IHC" else "histopathology",
        "context": sentences(*tissue.observations(), f"This is {name}"),
    }


REGION_QUESTIONS: tuple[Question, ...] = (
    Question(
        "diagnosis_label",
        "label",
        (
            "What is the diagnosis?",
            "Which diagnosis fits this tissue?",
            "What does this region show?",
            "Name the diagnosis.",
            "What does the tissue show?",
            "Name what this tissue shows.",
        ),
        ("Name the diagnosis that fits this region.", "Which of these does the tissue show?"),
        _diagnosis_label,
    ),
    Question(
        "tumour_cells",
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
        _tumour_cells,
    ),
    Question(
        "tumour_masks",
        "mask",
        (
            "Outline each {what}.",
            "Outline every {what} of this region.",
            "Segment each {what}.",
            "Segment every {what} of this tissue.",
        ),
        ("Outline every {what} of this tissue.", "Segment each {what} of this region."),
        _tumour_cells,
    ),
    Question(
        "grade",
        "ordinal",
        (
            "What is the grade of this tumour?",
            "Which grade does this tumour have?",
            "Name the grade of this tumour.",
            "Which grade fits this region?",
        ),
        ("Name the grade that fits this tumour.", "Which is the grade of this region?"),
        _grade,
    ),
)
