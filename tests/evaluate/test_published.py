import math
from collections.abc import Sequence
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
import yaml

from pathloom.evaluate.published import (
    DIRECTIONS,
    MEAN,
    RECALL_AT,
    published_notes,
    published_retrieval,
    published_zero_shot,
    retrieval_column,
)
from pathloom.evaluate.report_records import BoardRow

SETS = ["LC-Lung", "LC-Colon", "WSSS4LUAD", "SICAPv2", "BMT"]
RECALLS = [retrieval_column(way, k) for way in DIRECTIONS for k in (*RECALL_AT, None)]


def tables() -> dict[str, Any]:
    path = files("pathloom.evaluate").joinpath("published.yaml")
    # BaseLoader: numbers stay the text that was printed
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def values(rows: Sequence[BoardRow], name: str) -> list[Any]:
    return next([cell and cell.value for cell in row.cells] for row in rows if row.name == name)


def is_share(text: str, total: int) -> bool:
    """Whether a count of `total`, in per cent on two digits, reads so."""
    count = round(float(text) * total / 100)
    return abs(100 * count / total - float(text)) <= 0.005 + 1e-9


def test_retrieval_rows_are_those_of_table_1():
    arch, archive = published_retrieval("ARCH", RECALLS), published_retrieval("Archive", RECALLS)
    assert [row.name for row in arch] == [row.name for row in archive]
    assert len(arch) == 12
    # typed from the paper, not from published.yaml
    assert values(arch, "Patho-CLIP-L") == [
        30.73, 61.01, 73.92, 83.44, 62.28, 28.20, 59.45, 71.91, 81.77, 60.33
    ]  # fmt: skip
    assert values(arch, "CONCH") == [24.07, 48.29, 60.04, 70.42, 50.71, 25.63, 50.22, 62.43, 72.62, 52.73]
    assert values(arch, "MUSK") == [2.04, 0.19, 0.37, 0.74, 0.34, 2.07, 0.19, 0.33, 0.74, 0.33]
    assert values(archive, "Patho-CLIP-B") == [
        3.63, 10.49, 16.01, 23.24, 13.34, 3.43, 10.78, 16.50, 24.15, 13.72
    ]  # fmt: skip
    assert values(archive, "PubmedCLIP") == [2.03, 7.42, 10.72, 16.54, 9.18, 2.25, 6.41, 9.67, 15.69, 8.51]
    assert {(row.origin, row.source) for row in arch} == {
        ("published", "Patho-R1, arXiv 2505.11404, Table 1")
    }


def test_zero_shot_rows_are_those_of_table_2():
    rows = published_zero_shot([*SETS, MEAN])
    assert len(rows) == 12
    assert values(rows, "Patho-CLIP-L") == [93.78, 97.48, 95.89, 55.09, 38.44, 76.14]
    assert values(rows, "Patho-CLIP-B") == [89.90, 98.60, 91.80, 49.01, 49.33, 75.28]
    assert values(rows, "OpenAI-CLIP-B") == [54.71, 67.78, 81.25, 25.68, 31.43, 52.17]
    assert values(rows, "QuiltNet") == [62.73, 58.15, 90.50, 41.85, 33.83, 57.41]
    assert {row.source for row in rows} == {"Patho-R1, arXiv 2505.11404, Table 2"}


def test_columns_stand_in_the_order_asked_for_and_what_was_not_printed_is_none():
    assert values(published_zero_shot(["CRC-100K", "bmt", "WSSSLUAD", ""]), "PLIP") == [
        None, 33.33, 86.21, None
    ]  # fmt: skip
    assert values(published_retrieval("arch", ["t2i @20", "i2t @3", "i2t @1"]), "PLIP") == [21.58, None, 2.31]


def test_a_set_or_columns_that_the_paper_does_not_have_give_no_rows():
    assert published_retrieval("phantoms", RECALLS) == []
    assert published_retrieval("ARCH", ["i2t @3"]) == []
    assert published_zero_shot(["CRC-100K", MEAN]) == []


def test_a_printed_average_is_shown_beside_averages_of_the_same_columns_only():
    assert values(published_zero_shot([*SETS[:4], MEAN]), "PLIP")[-1] is None
    assert values(published_zero_shot([*SETS, "BACH", MEAN]), "PLIP")[-1] is None
    short = [retrieval_column("i2t", 1), retrieval_column("i2t", None)]
    assert values(published_retrieval("ARCH", short), "PLIP") == [2.31, None]
    assert values(published_retrieval("ARCH", RECALLS[:5]), "PLIP")[-1] == 10.85


def test_every_printed_average_is_the_mean_of_its_numbers_but_four():
    odd = []
    for of_set in tables()["retrieval"]["sets"].values():
        for name, row in of_set["rows"].items():
            odd += [(name, *_misfit(row[way])) for way in DIRECTIONS if _misfit(row[way])]
    for name, row in tables()["zero_shot"]["rows"].items():
        odd += [(name, *_misfit(row))] if _misfit(row) else []
    assert odd == [
        ("MUSK", "0.34", "0.835"),
        ("MUSK", "0.33", "0.8325"),
        ("PLIP", "67.47", "67.464"),
        ("Patho-CLIP-B", "75.28", "75.728"),
    ]


def _misfit(row: list[str]) -> tuple[str, str] | tuple[()]:
    """(printed average, mean of the numbers before it) where rounding does not explain the difference."""
    *numbers, average = map(Decimal, row)
    mean = sum(numbers, Decimal()) / len(numbers)
    return (row[-1], str(mean)) if abs(mean - average) > Decimal("0.005") else ()


def test_all_recalls_but_three_are_shares_of_the_pool_sizes():
    odd = [
        (name, way, text)
        for of_set in tables()["retrieval"]["sets"].values()
        for name, row in of_set["rows"].items()
        for way in DIRECTIONS
        for text in row[way][:-1]
        if not is_share(text, int(of_set["pool"]))
    ]
    assert odd == [("MUSK", "i2t", "2.04"), ("MUSK", "t2i", "2.07"), ("PLIP", "i2t", "15.54")]


def test_accuracies_are_shares_of_the_known_test_sizes_as_far_as_the_notes_say():
    table = tables()["zero_shot"]
    sicap, bmt = SETS.index("SICAPv2"), SETS.index("BMT")
    assert all(is_share(row[sicap], int(table["test_size"]["SICAPv2"])) for row in table["rows"].values())
    assert [row[bmt] for row in table["rows"].values() if not is_share(row[bmt], 600)] == [
        "31.43", "26.27", "47.21", "38.44"
    ]  # fmt: skip


def test_two_pairs_of_rows_look_alike():
    archive = tables()["retrieval"]["sets"]["Archive"]["rows"]
    same = [
        archive["PLIP"][way][k] == archive["PubmedCLIP"][way][k] for way in ("i2t", "t2i") for k in range(4)
    ]
    assert same == [True, True, True, False, True, True, True, True]
    rows = published_zero_shot(SETS)
    both = zip(values(rows, "PathCLIP"), values(rows, "PubmedCLIP"), strict=True)
    assert max(abs(a - b) for a, b in both) == pytest.approx(0.63)


@pytest.mark.parametrize("name", ["ARCH", "Archive"])
def test_musk_has_just_the_hits_of_chance(name):
    of_set = tables()["retrieval"]["sets"][name]
    chance = [f"{100 * k / int(of_set['pool']):.2f}" for k in RECALL_AT]
    first = 1 if name == "ARCH" else 0  # the misprinted number
    assert of_set["rows"]["MUSK"]["i2t"][first:4] == chance[first:]


def test_notes_are_those_of_what_a_board_shows():
    assert all("Table 1" in note for note in published_notes("retrieval", "ARCH"))
    assert not any("PubmedCLIP agree" in note for note in published_notes("retrieval", "ARCH"))
    assert any("PubmedCLIP agree" in note for note in published_notes("retrieval", "Archive"))
    assert any("75.73" in note for note in published_notes("zero_shot", columns=[*SETS, MEAN]))
    assert not any("75.73" in note for note in published_notes("zero_shot", columns=["LC-Lung"]))


def test_every_oddity_names_a_set_or_columns_that_there_are():
    table = tables()
    assert {one["set"] for one in table["oddities"]["retrieval"]} <= set(table["retrieval"]["sets"])
    named = {name for one in table["oddities"]["zero_shot"] for name in one.get("columns", [])}
    assert named <= {*SETS, MEAN}
    assert all(math.isfinite(cell.value) for row in published_zero_shot(SETS) for cell in row.cells if cell)
