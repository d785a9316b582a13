"""What phantoms say about themselves: short observations from a small vocabulary, and captions in varied wording."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathloom.phantom.tissue import Tissue

ARCHITECTURE: Mapping[str, str] = {
    "benign glands": "Round glands with a single cell layer.",
    "adenocarcinoma": "Irregular fused glands with atypical nuclei.",
    "squamous cell carcinoma": "Solid nests of polygonal cells.",
    "chronic inflammation": "Dense lymphocytes and plasma cells.",
    "necrosis": "Granular debris without intact cells.",
    "fibrosis": "Wavy collagen with spindle nuclei.",
}
_EXTRAS: Mapping[str, str] = {
    "pearl": "A keratin pearl is present.",
    "debris": "Debris lies in the gland lumens.",
}
_STAIN_SIGNS: Mapping[str, str] = {
    "": "H&E stain: purple nuclei, pink matrix.",
    "cytoplasm": "IHC stain: brown chromogen marks cytoplasm or matrix.",
    "nuclei": "IHC stain: brown chromogen marks many nuclei.",
}
_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five")
_CAPTIONS = (
    "{stain} section of {organ} showing {diagnosis}.",
    "{organ_}: {diagnosis}, {stain} stain.",
    "{diagnosis_} in {organ} tissue, stained with {stain}.",
    "This {stain} image of the {organ} shows {diagnosis}. Cellularity is {cellularity}.",
    "{stain} stained {organ} tissue with {diagnosis}. {mitoses} seen.",
    "Histology of the {organ} ({stain}). The findings are those of {diagnosis}.",
)


def count_mitoses(count: int) -> str:
    """'No mitoses are', 'One mitosis is', 'Two mitoses are' ..."""
    return f"{_NUMBERS[count]} mitosis is" if count == 1 else f"{_NUMBERS[count]} mitoses are"


def tissue_observations(tissue: "Tissue") -> tuple[str, ...]:
    """Architecture, an extra if one was drawn, cellularity or mitoses, and the stain."""
    said = [ARCHITECTURE[tissue.diagnosis]]
    said += [_EXTRAS[name] for name in tissue.features][:1]
    if tissue.num_mitoses:
        said.append(f"{count_mitoses(tissue.num_mitoses)} present.")
    else:
        said.append(f"Cellularity is {tissue.cellularity}.")
    said.append(_STAIN_SIGNS[tissue.chromogen])
    return tuple(said)


def tissue_caption(tissue: "Tissue", rng: np.random.Generator) -> str:
    """One template of several, filled from the truth."""
    template = _CAPTIONS[int(rng.integers(len(_CAPTIONS)))]
    return template.format(
        stain=tissue.stain,
        organ=tissue.organ,
        organ_=tissue.organ.capitalize(),
        diagnosis=tissue.diagnosis,
        diagnosis_=tissue.diagnosis.capitalize(),
        cellularity=tissue.cellularity,
        mitoses=count_mitoses(tissue.num_mitoses),
    )
