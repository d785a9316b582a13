"""Questions of source `phantom` for image-text training: captions by several writers, and labels of what is visible.

Captions `patch_caption`, `spoken_caption` and `legend_caption` stand for three published corpora (see
phantom.pair_wording). Captions in the held-out wordings, `reworded_caption` and `unseen_caption`, exist in split test
only. The labels serve zero-shot classification: each value is dealt equally often, and nothing that must be told, such
as the organ, is asked.
"""

from collections.abc import Callable, Mapping

from pathloom.ingest.drawn import Deal, Drawn, Fields, Question, sentences
from pathloom.phantom.cell import BETHESDA, Cell, draw_cell
from pathloom.phantom.cytology import PROFILES, VALUES
from pathloom.phantom.pair_wording import (
    HELD_OUT_WRITERS,
    TRAINING_WRITERS,
    Facts,
    Writer,
    cell_facts,
    tissue_facts,
    write_caption,
)
from pathloom.phantom.tissue import CELLULARITIES, DIAGNOSES, STAINS, Tissue, draw_tissue

CHROMOGEN_PLACES = ("cytoplasm", "nuclei")
ABSENT_PRESENT = ("absent", "present")
BACKGROUNDS = ("clean", "inflammatory", "dirty")
_SQUAMOUS = "squamous cell carcinoma"
_MAX_DRAWS = 1000


def _tissue_truth(tissue: Tissue) -> Fields:
    return {
        "context": sentences(*tissue.observations(), f"This is {tissue.diagnosis}"),
        "subfield": "ihc" if tissue.stain == "IHC" else "histopathology",
    }


def _cell_truth(cell: Cell) -> Fields:
    return {
        "context": sentences(*cell.observations(), f"This is {cell.bethesda}"),
        "subfield": "cytology",
    }


def _pair(writer: Writer) -> Callable[[Deal], tuple[Drawn, Fields]]:
    """Two pictures of tissue, then one of a cell; diagnoses and classes are dealt evenly."""

    def make(deal: Deal) -> tuple[Drawn, Fields]:
        turn, kind = divmod(deal.index, 3)
        facts: Facts
        if kind == 2:
            cell = draw_cell(deal.seed(), size_px=deal.size_px, bethesda=BETHESDA[turn % len(BETHESDA)])
            drawn, truth, facts = Drawn(cell.pixels_rgb, cell.mpp), _cell_truth(cell), cell_facts(cell)
            finding = cell.bethesda
        else:
            finding = DIAGNOSES[(2 * turn + kind) % len(DIAGNOSES)]
            tissue = draw_tissue(deal.seed(), size_px=deal.size_px, diagnosis=finding)
            drawn, truth = Drawn(tissue.pixels_rgb, tissue.mpp), _tissue_truth(tissue)
            facts = tissue_facts(tissue)
        return drawn, {**truth, "finding": finding, "answer": write_caption(writer, facts, deal.rng)}

    return make


def _of_tissue(
    values: tuple[str, ...],
    read: Callable[[Tissue], str],
    *,
    only: str | None = None,
    stain: str | None = None,
) -> Callable[[Deal], tuple[Drawn, Fields]]:
    """Drawn again until the picture has the value dealt, in every diagnosis or in `only` one."""

    def make(deal: Deal) -> tuple[Drawn, Fields]:
        value = values[deal.index % len(values)]
        diagnosis = only or DIAGNOSES[(deal.index // len(values)) % len(DIAGNOSES)]
        for _ in range(_MAX_DRAWS):
            tissue = draw_tissue(deal.seed(), size_px=deal.size_px, diagnosis=diagnosis, stain=stain)
            if read(tissue) == value:
                return Drawn(tissue.pixels_rgb, tissue.mpp), {
                    **_tissue_truth(tissue),
                    **_label(values, value),
                }
        raise RuntimeError(f"no phantom of {diagnosis} with {value} in {_MAX_DRAWS} draws")

    return make


def _of_cell(
    values: tuple[str, ...], read: Callable[[Cell], str], profile: str | None = None
) -> Callable[[Deal], tuple[Drawn, Fields]]:
    """Drawn again until the cell has the value dealt; `profile`: of the classes that have it by their profile only."""

    def make(deal: Deal) -> tuple[Drawn, Fields]:
        value = values[deal.index % len(values)]
        classes = [name for name in BETHESDA if profile is None or value in PROFILES[name][profile]]
        bethesda = classes[(deal.index // len(values)) % len(classes)]
        for _ in range(_MAX_DRAWS):
            cell = draw_cell(deal.seed(), size_px=deal.size_px, bethesda=bethesda)
            if read(cell) == value:
                return Drawn(cell.pixels_rgb, cell.mpp), {**_cell_truth(cell), **_label(values, value)}
            if profile is None:  # a background is not drawn in every class
                bethesda = classes[int(deal.rng.integers(len(classes)))]
        raise RuntimeError(f"no phantom of {bethesda} with {value} in {_MAX_DRAWS} draws")

    return make


def _label(values: tuple[str, ...], value: str) -> Fields:
    return {"choices": values, "answer": value, "finding": value}


def _attribute(key: str) -> Callable[[Deal], tuple[Drawn, Fields]]:
    return _of_cell(VALUES[key], lambda cell: cell.attributes[key], profile=key)


_LABELS: Mapping[str, tuple[str, str, Callable[[Deal], tuple[Drawn, Fields]]]] = {
    "stain_label": (
        "Which stain is this?",
        "Name the stain.",
        _of_tissue(STAINS, lambda tissue: tissue.stain),
    ),
    "cellularity": (
        "How high is the cellularity?",
        "Name the cellularity.",
        _of_tissue(CELLULARITIES, lambda tissue: tissue.cellularity),
    ),
    "mitoses_label": (
        "Are mitoses present?",
        "Are mitoses absent or present?",
        _of_tissue(ABSENT_PRESENT, lambda tissue: ABSENT_PRESENT[tissue.num_mitoses > 0]),
    ),
    "chromogen": (
        "What does the chromogen mark?",
        "Name what the chromogen marks.",
        _of_tissue(CHROMOGEN_PLACES, lambda tissue: tissue.chromogen, stain="IHC"),
    ),
    "pearl": (
        "Is a keratin pearl present?",
        "Is a keratin pearl absent or present?",
        _of_tissue(ABSENT_PRESENT, lambda tissue: ABSENT_PRESENT["pearl" in tissue.features], only=_SQUAMOUS),
    ),
    "nc_ratio": (
        "How high is the nuclear-cytoplasmic ratio?",
        "Name the nuclear-cytoplasmic ratio.",
        _attribute("nc_ratio"),
    ),
    "nuclear_size": ("How large is the nucleus?", "Name the nuclear size.", _attribute("nuclear_size")),
    "cytoplasm": ("What is the cytoplasm like?", "Name the cytoplasm.", _attribute("cytoplasm")),
    "arrangement": ("How are the cells arranged?", "Name the arrangement.", _attribute("arrangement")),
    "background": (
        "What is the background like?",
        "Name the background.",
        _of_cell(BACKGROUNDS, lambda cell: cell.background),
    ),
}

UNSEEN_CAPTIONS: tuple[str, ...] = tuple(f"{writer}_caption" for writer in HELD_OUT_WRITERS)
"""Questions whose captions no training Sample may carry."""

PAIR_QUESTIONS: tuple[Question, ...] = (
    *(
        Question(
            f"{writer}_caption",
            "caption",
            ("Describe this picture.",),
            ("What does this picture show?",),
            _pair(writer),
        )
        for writer in (*TRAINING_WRITERS, *HELD_OUT_WRITERS)
    ),
    *(Question(name, "label", (seen,), (unseen,), make) for name, (seen, unseen, make) in _LABELS.items()),
)
CAPTION_WORDING: Mapping[str, str] = {
    f"{writer}_caption": "unseen" if writer in HELD_OUT_WRITERS else "seen"
    for writer in (*TRAINING_WRITERS, *HELD_OUT_WRITERS)
}
"""Question -> stratum `wording` of its Samples: the caption's, as matching pictures with captions reads no question."""
