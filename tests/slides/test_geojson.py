"""Tissue and grid for QuPath."""

import json

import numpy as np
import pytest

from pathloom.slides.geojson import grid_features, outlines, tissue_features, write_geojson


def area(ring: list) -> float:
    x, y = np.array(ring[:-1]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_a_piece_with_a_hole_is_one_polygon_with_two_closed_rings_in_level_0_pixels():
    mask = np.zeros((10, 20), bool)
    mask[2:8, 3:9] = True
    mask[4:6, 5:7] = False

    (feature,) = tissue_features(mask, (2000, 1000))

    outer, hole = feature["geometry"]["coordinates"]
    assert feature["geometry"]["type"] == "Polygon"
    assert outer[0] == outer[-1]
    assert hole[0] == hole[-1]
    assert sorted(map(tuple, outer[:-1])) == [(300, 200), (300, 800), (900, 200), (900, 800)]
    assert sorted(map(tuple, hole[:-1])) == [(500, 400), (500, 600), (700, 400), (700, 600)]
    assert feature["properties"]["classification"]["name"] == "Tissue"


@pytest.mark.parametrize("seed", range(20))
def test_rings_enclose_exactly_the_mask(seed):
    mask = np.random.default_rng(seed).random((12, 15)) < 0.55

    features = tissue_features(mask, (15, 12))

    rings = [ring for feature in features for ring in feature["geometry"]["coordinates"]]
    assert sum(map(area, rings)) == mask.sum()
    for feature in features:
        outer, *holes = feature["geometry"]["coordinates"]
        assert area(outer) > 0
        assert all(area(hole) < 0 for hole in holes)


def test_pieces_that_touch_at_a_corner_are_two_polygons():
    assert len(outlines(np.eye(2, dtype=bool))) == 2


def test_the_file_is_a_feature_collection_with_a_square_a_tile(tmp_path):
    write_geojson(grid_features([(0, 0, 10, 10), (10, 0, 20, 10)]), tmp_path / "grid.geojson")

    read = json.loads((tmp_path / "grid.geojson").read_text())
    assert read["type"] == "FeatureCollection"
    assert [feature["properties"]["classification"]["name"] for feature in read["features"]] == ["Tile"] * 2
    assert read["features"][1]["geometry"]["coordinates"] == [[[10, 0], [20, 0], [20, 10], [10, 10], [10, 0]]]
