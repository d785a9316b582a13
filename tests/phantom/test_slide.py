"""Phantom slides: the truth is where it is drawn, and nothing but the lesion tells the label."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import openslide
import pytest

from pathloom.phantom.slide import (
    BENIGN,
    EXTENTS,
    LESIONS,
    NORMAL,
    SlidePainter,
    SlidePlan,
    plan_slide,
    write_slide,
)
from pathloom.phantom.slide_bank import PATCH_PX, PITCH_PX, patches
from pathloom.phantom.slide_plan import EXTENT_SHARES, area_px, rasterise

SIDE_PX = 1024


def planned(seed: int, label: str = NORMAL, extent: str = "none") -> SlidePlan:
    return plan_slide(seed, label=label, extent=extent, width_px=SIDE_PX, height_px=SIDE_PX)


def drawn(plan: SlidePlan, step_px: int = 256) -> np.ndarray:
    painter = SlidePainter(plan)
    strips = [painter.strip(y, min(step_px, plan.height_px - y)) for y in range(0, plan.height_px, step_px)]
    return np.concatenate(strips)


def dealt(count: int) -> list[SlidePlan]:
    """All labels and extents in turn."""
    plans = []
    for seed in range(count):
        label = (NORMAL, *LESIONS)[seed % 4]
        plans.append(planned(seed, label, "none" if label == NORMAL else EXTENTS[1 + seed // 4 % 2]))
    return plans


def test_the_lesion_takes_the_share_its_extent_states_and_never_more_than_a_twentieth() -> None:
    for plan in dealt(48):
        if plan.label == NORMAL:
            assert not plan.lesions
            assert plan.lesion_share == 0
        else:
            low, high = EXTENT_SHARES[plan.extent]
            assert low <= plan.lesion_share <= high <= 0.05
            assert {focus.kind for focus in plan.lesions} == {plan.label}


def test_lesion_foci_and_gaps_lie_in_the_tissue_and_apart_from_each_other() -> None:
    for plan in dealt(24):
        things = [*plan.gaps_l0, *(focus.outline_l0 for focus in (*plan.benign_foci, *plan.lesions))]
        cells = [rasterise([one], 0, 0, SIDE_PX, SIDE_PX) > 0 for one in things]
        tissue = rasterise(plan.tissue_l0, 0, 0, SIDE_PX, SIDE_PX) > 0
        assert not any((cell & ~tissue).any() for cell in cells)
        assert not any((one & other).any() for one, other in combinations(cells, 2))
        assert plan.background in BENIGN
        assert all(focus.kind in BENIGN and focus.kind != plan.background for focus in plan.benign_foci)


def test_the_share_of_a_tile_is_that_of_the_outlines_and_tiles_add_up_to_the_lesion() -> None:
    plan = planned(3, "necrosis", "larger")
    tiles = [(x, y) for y in range(0, SIDE_PX, 128) for x in range(0, SIDE_PX, 128)]
    lesion = sum(plan.lesion_share_of_tile(x, y, 128) for x, y in tiles) * 128**2
    tissue = sum(plan.tissue_share_of_tile(x, y, 128) for x, y in tiles) * 128**2
    assert lesion == pytest.approx(sum(area_px(one.outline_l0) for one in plan.lesions), rel=0.05)
    assert tissue == pytest.approx(plan.tissue_area_px, rel=0.03)
    x, y = plan.lesions[0].outline_l0.mean(0)
    assert plan.lesion_share_of_tile(x - 5, y - 5, 10) == 1
    assert plan.lesion_share_of_tile(0, 0, 10) == 0


def test_tissue_is_drawn_where_the_outlines_say_and_glass_elsewhere() -> None:
    plan = planned(5)
    pixels = drawn(plan)
    tissue = rasterise(plan.tissue_l0, 0, 0, SIDE_PX, SIDE_PX) > 0
    for gap in plan.gaps_l0:
        tissue &= rasterise([gap], 0, 0, SIDE_PX, SIDE_PX) == 0
    paper = pixels[0, 0]
    assert (pixels[~tissue] == paper).all(1).mean() > 0.98
    assert (pixels[tissue] == paper).all(1).mean() < 0.05
    assert paper.min() > 225


def test_only_the_lesion_differs_between_a_slide_and_its_normal_twin() -> None:
    ill = planned(7, "squamous cell carcinoma", "larger")
    well = planned(7)
    changed = (drawn(ill) != drawn(well)).any(2)
    near = np.zeros_like(changed)
    for focus in ill.lesions:
        (x1, y1), (x2, y2) = focus.outline_l0.min(0).astype(int) - 8, focus.outline_l0.max(0).astype(int) + 9
        near[y1:y2, x1:x2] = True
    lesion = rasterise([focus.outline_l0 for focus in ill.lesions], 0, 0, SIDE_PX, SIDE_PX) > 0
    assert not changed[~near].any()
    assert changed[lesion].mean() > 0.9


def test_a_strip_has_the_same_pixels_however_the_slide_is_cut_and_whenever_it_is_drawn() -> None:
    plan = planned(2, "adenocarcinoma", "small")
    whole = drawn(plan)
    assert (whole == drawn(plan, 100)).all()
    assert (SlidePainter(plan).strip(300, 50) == whole[300:350]).all()


def test_patches_side_by_side_add_up_without_a_seam() -> None:
    one = patches("fibrosis")[0]
    laid = np.zeros((PATCH_PX, PATCH_PX + PITCH_PX), np.int64)
    for byte in (0, 8):
        laid[:] = 0
        for left in (0, PITCH_PX):
            laid[:, left : left + PATCH_PX] += (one >> byte) & 255
        middle = laid[32:-32]
        assert middle.max() < 256
        assert middle[:, PITCH_PX:PATCH_PX].mean() == pytest.approx(middle[:, 32:PITCH_PX].mean(), rel=0.35)


@pytest.mark.slow
def test_what_is_seen_at_a_glance_says_nothing_about_the_label() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    plans = dealt(128)
    seen = []
    for plan in plans:
        painter = SlidePainter(plan)
        thin = np.concatenate([painter.strip(y, 16) for y in range(0, SIDE_PX, 64)])
        tissue = thin[thin.min(2) < 215]
        seen.append(
            [*thin.mean((0, 1)), *tissue.mean(0), len(tissue), len(plan.benign_foci), len(plan.gaps_l0)]
        )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    for truth in ([p.label for p in plans], [p.label == NORMAL for p in plans], [p.extent for p in plans]):
        chance = 1 / len(set(truth))
        found = cross_val_score(probe, np.array(seen), truth, cv=folds, scoring="balanced_accuracy").mean()
        assert found < chance + 0.15


def test_a_written_slide_opens_with_its_size_and_truth(tmp_path: Path) -> None:
    plan = planned(1, "adenocarcinoma", "larger")
    write_slide(plan, tmp_path / "slide.tiff")
    with openslide.OpenSlide(tmp_path / "slide.tiff") as slide:
        assert slide.dimensions == (SIDE_PX, SIDE_PX)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(1.0)
        read = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    assert np.abs(read.astype(int) - drawn(plan)).mean() < 8
    truth = json.loads((tmp_path / "slide.geojson").read_text())
    names = [one["properties"]["classification"]["name"] for one in truth["features"]]
    assert names.count("adenocarcinoma") == len(plan.lesions)
    outline = next(
        one["geometry"]["coordinates"][0]
        for one in truth["features"]
        if one["properties"]["classification"]["name"] == "adenocarcinoma"
    )
    assert outline[0] == outline[-1]
    assert np.allclose(outline[:-1], plan.lesions[0].outline_l0, atol=0.06)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width_px": 500}, "too small"),
        ({"label": "melanoma", "extent": "small"}, "a lesion of"),
        ({"label": NORMAL, "extent": "small"}, "a lesion of"),
        ({"label": "necrosis", "extent": "none"}, "a lesion of"),
    ],
)
def test_what_cannot_be_planned_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_slide(0, **fields)  # type: ignore[arg-type]
