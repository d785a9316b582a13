"""What each Bethesda class looks like in cervical cytology, and which look one cell is to have.

Classes and criteria after "The Bethesda System for Reporting Cervical Cytology", 3rd edition 2014 (Nayar R, Wilbur
DC, eds.), and general cytology texts, simplified to attributes that can be drawn. A cytologist has yet to confirm it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BETHESDA = ("NILM", "ASC-US", "LSIL", "ASC-H", "HSIL", "SCC", "AGC", "adenocarcinoma")

# An intermediate squamous nucleus is 8 um across (general cytology texts: 7 to 9 um).
INTERMEDIATE_NUCLEUS_UM2 = float(np.pi * 4.0**2)

# Area of one nucleus over the area of an intermediate nucleus. Bethesda 2014: ASC-US 2.5 to 3, LSIL above 3.
SIZE_FOLD: Mapping[str, tuple[float, float]] = {
    "normal": (0.85, 1.25),
    "mildly enlarged": (1.6, 2.3),
    "moderately enlarged": (2.5, 3.0),
    "markedly enlarged": (3.2, 4.2),
}
# Area of all nuclei of the cell over the area of the cell; bands leave gaps so that a band can be told.
NC_RATIO: Mapping[str, tuple[float, float]] = {
    "low": (0.05, 0.10),
    "slightly increased": (0.13, 0.19),
    "increased": (0.24, 0.34),
    "high": (0.42, 0.52),
    "very high": (0.58, 0.70),
}
NUM_NUCLEI: Mapping[str, int] = {"one": 1, "two": 2, "several": 3}

VALUES: Mapping[str, tuple[str, ...]] = {
    "nuclear_size": tuple(SIZE_FOLD),
    "chromatin": ("fine even", "slightly dark", "dark even", "dark smudged", "coarse dark", "coarse cleared"),
    "num_nuclei": tuple(NUM_NUCLEI),
    "nc_ratio": tuple(NC_RATIO),
    "nuclear_membrane": ("smooth", "mildly irregular", "irregular"),
    "nucleoli": ("none", "small", "large"),
    "cytoplasm": ("mature", "metaplastic", "immature", "keratinised", "columnar", "vacuolated"),
    "abnormal_signs": (
        "none",
        "koilocyte",
        "keratinisation abnormality",
        "nuclear atypia",
        "nuclear atypia + koilocyte",
        "nuclear atypia + keratinisation abnormality",
    ),
    "arrangement": (
        "single",
        "flat sheet",
        "small group",
        "crowded group",
        "strip",
        "rosette",
        "three-dimensional group",
    ),
}


def _profile(*admissible: str) -> Mapping[str, tuple[str, ...]]:
    """One row of the table: for each attribute in order, its values separated by '/'."""
    return dict(zip(VALUES, (tuple(cell.split("/")) for cell in admissible), strict=True))


_ATYPIA = "nuclear atypia"
PROFILES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "NILM": _profile(
        "normal", "fine even", "one", "low", "smooth", "none/small", "mature", "none", "flat sheet"
    ),
    "ASC-US": _profile(
        "moderately enlarged",
        "slightly dark",
        "one",
        "slightly increased",
        "mildly irregular",
        "none",
        "mature",
        _ATYPIA,
        "single/flat sheet",
    ),
    "LSIL": _profile(
        "markedly enlarged",
        "dark smudged/coarse dark",
        "one/two",
        "low/slightly increased",
        "mildly irregular",
        "none",
        "mature",
        f"{_ATYPIA}/{_ATYPIA} + koilocyte",
        "single/flat sheet",
    ),
    "ASC-H": _profile(
        "mildly enlarged",
        "dark even",
        "one",
        "high",
        "irregular",
        "none",
        "metaplastic",
        _ATYPIA,
        "single/small group",
    ),
    "HSIL": _profile(
        "mildly enlarged/moderately enlarged/markedly enlarged",
        "coarse dark",
        "one",
        "very high",
        "irregular",
        "none",
        "immature",
        _ATYPIA,
        "single/flat sheet/crowded group",
    ),
    "SCC": _profile(
        "mildly enlarged/moderately enlarged/markedly enlarged",
        "coarse cleared",
        "one/two",
        "slightly increased/increased/high",
        "irregular",
        "none/large",
        "keratinised",
        f"{_ATYPIA} + keratinisation abnormality",
        "single",
    ),
    "AGC": _profile(
        "markedly enlarged",
        "slightly dark",
        "one",
        "increased",
        "mildly irregular",
        "none/small",
        "columnar",
        _ATYPIA,
        "strip/rosette",
    ),
    "adenocarcinoma": _profile(
        "moderately enlarged/markedly enlarged",
        "coarse cleared",
        "one",
        "increased/high",
        "irregular",
        "large",
        "vacuolated",
        _ATYPIA,
        "three-dimensional group",
    ),
}

# In a field of 56 um a lone cell may reach this area, and a member of a group this one, or its neighbours are lost.
_MAX_CELL_UM2 = 1800.0
_MAX_MEMBER_UM2 = 800.0
_BESIDE_EACH_OTHER = ("small group", "crowded group", "strip", "rosette", "three-dimensional group")
_MAX_TRIES = 400


@dataclass(frozen=True)
class CellPlan:
    """The look one cell is to have: attributes, areas, and which attributes break the class profile."""

    bethesda: str
    attributes: Mapping[str, str]
    broken: tuple[str, ...]
    nucleus_um2: float  # one nucleus
    cell_um2: float

    @property
    def koilocyte(self) -> bool:
        """Whether a clear halo surrounds the nucleus."""
        return "koilocyte" in self.attributes["abnormal_signs"]


def signs_of(attributes: Mapping[str, str], *, koilocyte: bool) -> str:
    """The abnormal signs that follow from the other attributes and from a drawn halo, joined by ' + '.

    Nuclear atypia: at least two of an enlargement of 2.5 times, dark or coarse chromatin, and an uneven membrane.
    """
    atypical = (
        attributes["nuclear_size"] in ("moderately enlarged", "markedly enlarged"),
        attributes["chromatin"] not in ("fine even", "slightly dark"),
        attributes["nuclear_membrane"] != "smooth",
    )
    signs = [_ATYPIA] if sum(atypical) >= 2 else []
    signs += ["koilocyte"] if koilocyte else []
    signs += ["keratinisation abnormality"] if attributes["cytoplasm"] == "keratinised" else []
    return " + ".join(signs) or "none"


def _cell_limit_um2(attributes: Mapping[str, str]) -> float:
    return _MAX_MEMBER_UM2 if attributes["arrangement"] in _BESIDE_EACH_OTHER else _MAX_CELL_UM2


def _can_be_drawn(attributes: Mapping[str, str]) -> bool:
    """Whether the attributes can be true of one cell in one field."""
    count = NUM_NUCLEI[attributes["num_nuclei"]]
    if count > 1 and attributes["nc_ratio"] in ("high", "very high"):
        return False  # several round nuclei cannot cover so much of a cell
    if attributes["abnormal_signs"] not in VALUES["abnormal_signs"]:
        return False
    roomy = attributes["nc_ratio"] in ("low", "slightly increased")
    if "koilocyte" in attributes["abnormal_signs"] and not (roomy and attributes["cytoplasm"] == "mature"):
        return False
    limit_um2 = _cell_limit_um2(attributes)
    smallest_nucleus_um2 = SIZE_FOLD[attributes["nuclear_size"]][0] * INTERMEDIATE_NUCLEUS_UM2
    return count * smallest_nucleus_um2 / NC_RATIO[attributes["nc_ratio"]][1] < 0.95 * limit_um2


def _draw_attributes(rng: np.random.Generator, bethesda: str, num_broken: int) -> dict[str, str]:
    """Attributes of the class, `num_broken` of them taken from outside its profile."""
    profile = PROFILES[bethesda]
    keys = tuple(VALUES)
    breaking = {keys[i] for i in rng.permutation(len(keys))[:num_broken]}
    attributes = {}
    for key in keys:
        outside = tuple(v for v in VALUES[key] if v not in profile[key])
        options = outside if key in breaking else profile[key]
        attributes[key] = options[int(rng.integers(len(options)))]
    koilocyte = "koilocyte" in attributes["abnormal_signs"]
    attributes["abnormal_signs"] = signs_of(attributes, koilocyte=koilocyte)
    return attributes


def draw_plan(rng: np.random.Generator, bethesda: str, *, broken_share: float) -> CellPlan:
    """A look that can be drawn; with probability `broken_share` one or two attributes lie outside the profile.

    A broken attribute may pull abnormal_signs with it; that counts, so `broken` never names more than two.
    """
    profile = PROFILES[bethesda]
    breaks = rng.random() < broken_share
    for _ in range(_MAX_TRIES):
        attributes = _draw_attributes(rng, bethesda, int(rng.integers(1, 3)) if breaks else 0)
        broken = tuple(key for key, value in attributes.items() if value not in profile[key])
        if len(broken) in ((1, 2) if breaks else (0,)) and _can_be_drawn(attributes):
            break
    else:
        raise RuntimeError(f"no look for {bethesda} in {_MAX_TRIES} tries")
    count, limit_um2 = NUM_NUCLEI[attributes["num_nuclei"]], _cell_limit_um2(attributes)
    low_fold, high_fold = SIZE_FOLD[attributes["nuclear_size"]]
    low_ratio, high_ratio = NC_RATIO[attributes["nc_ratio"]]
    largest_fold = limit_um2 * high_ratio / count / INTERMEDIATE_NUCLEUS_UM2
    fold = float(rng.uniform(low_fold, min(high_fold, max(largest_fold, low_fold))))
    nuclei_um2 = count * fold * INTERMEDIATE_NUCLEUS_UM2
    ratio = float(rng.uniform(min(max(low_ratio, nuclei_um2 / limit_um2), high_ratio), high_ratio))
    return CellPlan(bethesda, attributes, broken, nuclei_um2 / count, nuclei_um2 / ratio)


_SENTENCES: Mapping[str, str] = {
    "nuclear_size": "Nuclear size: {}.",
    "chromatin": "Chromatin is {}.",
    "num_nuclei": "The cell has {}.",
    "nc_ratio": "The nuclear-cytoplasmic ratio is {}.",
    "nuclear_membrane": "The nuclear membrane is {}.",
    "nucleoli": "Nucleoli: {}.",
    "cytoplasm": "The cytoplasm is {}.",
    "abnormal_signs": "Abnormal signs: {}.",
    "arrangement": "Arrangement: {}.",
}


def attribute_sentence(key: str, value: str) -> str:
    """One attribute as a sentence."""
    if key == "num_nuclei":
        value = f"{value} nucleus" if value == "one" else f"{value} nuclei"
    return _SENTENCES[key].format(value)


_CAPTIONS = (
    "Cervical cytology, Papanicolaou stain: {bethesda}.",
    "A cervical smear cell of category {bethesda}. {first}",
    "{bethesda} on a cervical smear. {first}",
    "Papanicolaou stained cervical cell, reported as {bethesda}.",
    "This cervical cell is classified as {bethesda}. {second}",
)


def cell_caption(rng: np.random.Generator, bethesda: str, attributes: Mapping[str, str]) -> str:
    """One template of several, with attributes of the cell."""
    keys = [list(attributes)[i] for i in rng.permutation(len(attributes))[:2]]
    first, second = (attribute_sentence(key, attributes[key]) for key in keys)
    return _CAPTIONS[int(rng.integers(len(_CAPTIONS)))].format(bethesda=bethesda, first=first, second=second)
