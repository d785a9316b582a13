from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.fixtures import encoded, write_tiles
from tests.test_images import png_header_only

from pathloom.ingest.source import split_by_group
from pathloom.ingest.tiles import TilesConfig
from pathloom.schema import Drop, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError
from pathloom.store import read_samples


def tiles(root: Path, **fields: Any) -> TilesConfig:
    return TilesConfig.model_validate(
        {"name": "tiles", "kind": "ingest", "source": "tiles", "root": root, **fields}
    )


def read_all(config: TilesConfig) -> tuple[list[Sample], list[Drop]]:
    records = [record for unit in config.plan() for record in config.read(unit)]
    samples = [record for record in records if isinstance(record, Sample)]
    return samples, [record for record in records if isinstance(record, Drop)]


def sides_of_groups(samples: Sequence[Sample]) -> dict[str, set[str]]:
    sides = defaultdict(set)
    for sample in samples:
        sides[sample.origin.group].add(sample.split)
    return sides


def labels_by_split(samples: Sequence[Sample]) -> dict[str, set[str]]:
    labels = defaultdict(set)
    for sample in samples:
        labels[sample.split].add(sample.answer)
    return labels


def error_of(config: TilesConfig) -> str:
    with pytest.raises(UserError) as caught:
        config.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_folders_become_labels_and_the_classes_the_options(tmp_path):
    root = write_tiles(tmp_path, {"normal": 5, "tumour": 5})
    config = tiles(
        root,
        class_names={"tumour": "adenocarcinoma"},
        mpp=0.5,
        licence="CC0-1.0",
        dataset="ours",
        question="Which?",
    )

    samples, drops = read_all(config)

    assert (len(samples), drops) == (10, [])
    sample = next(sample for sample in samples if sample.id == "ours/tumour/03.png")
    assert sample.choices == ("normal", "adenocarcinoma")
    assert (sample.answer, sample.finding, sample.question) == ("adenocarcinoma", "adenocarcinoma", "Which?")
    assert (sample.origin.source, sample.origin.licence) == ("ours", "CC0-1.0")
    assert sample.origin.source_id == str(root / "tumour" / "03.png")
    assert (sample.images[0].mpp, sample.images[0].data) == (0.5, None)
    assert len({one.id for one in samples}) == 10


def test_two_folders_may_hold_one_class(tmp_path):
    root = write_tiles(tmp_path, {"a_2019": 3, "a_2020": 3, "b": 3})

    samples, _ = read_all(tiles(root, class_names={"a_2019": "A", "a_2020": "A", "b": "B"}))

    assert {sample.choices for sample in samples} == {("A", "B")}


def test_groups_of_a_csv_stay_on_one_side(tmp_path):
    root = write_tiles(tmp_path / "tiles", {"normal": 12, "tumour": 12})
    rows = [
        f"{label},{index:02d}.png,{label[0]}{index // 3}"
        for label in ("normal", "tumour")
        for index in range(12)
    ]
    table = write_csv(tmp_path / "groups.csv", "class,file,group", *rows)

    samples, _ = read_all(tiles(root, groups=table))

    assert {len(sides) for sides in sides_of_groups(samples).values()} == {1}
    assert set(sides_of_groups(samples)) == {f"{letter}{number}" for letter in "nt" for number in range(4)}
    assert labels_by_split(samples) == {"train": {"normal", "tumour"}, "test": {"normal", "tumour"}}


def test_several_columns_together_name_a_group(tmp_path):
    root = write_tiles(tmp_path / "tiles", {"normal": 2, "tumour": 2})
    table = write_csv(
        tmp_path / "groups.csv",
        "class,file,patient,slide",
        *(f"{label},{index:02d}.png,{label},{index}" for label in ("normal", "tumour") for index in range(2)),
    )

    samples, _ = read_all(tiles(root, groups=table, group_columns=("patient", "slide")))

    assert sorted(sample.origin.group for sample in samples) == [
        "normal/0",
        "normal/1",
        "tumour/0",
        "tumour/1",
    ]


def test_a_file_name_can_hold_the_group(tmp_path):
    root = tmp_path
    for label in ("normal", "tumour"):
        (root / label).mkdir()
        for patient in range(4):
            for tile in range(3):
                (root / label / f"{label}-P{patient}_{tile}.png").write_bytes(encoded(patient * 10 + tile))

    samples, _ = read_all(tiles(root, group_pattern=r"/(\w+-P\d+)_"))

    assert len(sides_of_groups(samples)) == 8
    assert {len(sides) for sides in sides_of_groups(samples).values()} == {1}


def test_without_groups_each_picture_is_its_own(tmp_path):
    samples, _ = read_all(tiles(write_tiles(tmp_path, {"a": 5, "b": 5})))

    assert len(sides_of_groups(samples)) == 10
    assert sum(sample.split == "test" for sample in samples) == 2


@pytest.mark.parametrize("folds", [2, 3, 4])
def test_folds_keep_groups_whole_and_hold_every_class(tmp_path, folds):
    root = write_tiles(tmp_path / "tiles", {"normal": 12, "tumour": 12})
    rows = [
        f"{label},{index:02d}.png,{label[0]}{index // 2}"
        for label in ("normal", "tumour")
        for index in range(12)
    ]
    table = write_csv(tmp_path / "groups.csv", "class,file,group", *rows)

    samples, _ = read_all(tiles(root, groups=table, folds=folds))

    assert set(labels_by_split(samples)) == {f"fold-{fold}" for fold in range(folds)}
    assert all(labels == {"normal", "tumour"} for labels in labels_by_split(samples).values())
    assert {len(sides) for sides in sides_of_groups(samples).values()} == {1}


def test_the_same_seed_splits_alike_and_another_one_differently(tmp_path):
    root = write_tiles(tmp_path, {"a": 10, "b": 10})

    def splits(seed: int) -> list[str]:
        return [sample.split for sample in read_all(tiles(root, seed=seed))[0]]

    assert splits(1) == splits(1)
    assert any(splits(1) != splits(seed) for seed in (2, 3, 4))


def test_every_class_stands_on_both_sides_or_is_named():
    # Groups that carry two classes: keeping them whole can leave one side without a class.
    labels = [*"aab", *"abc" * 2, *"cc"]
    groups = ["a1", "s0", "b1", "s0", "s0", "c1", "s2", "s2", "c2", "c3", "s0"]
    outcomes = set()
    for seed in range(20):
        for folds in (0, 2):
            try:
                split = split_by_group(groups, labels, test_share=0.2, folds=folds, seed=seed)
            except UserError as error:
                outcomes.add(str(error).partition(" ")[0])
            else:
                for label in "abc":
                    assert len({side for side, one in zip(split, labels, strict=True) if one == label}) == 2
                outcomes.add("split")
    assert outcomes == {"class", "split"}


def test_bad_files_are_dropped_and_counted_by_reason(tmp_path):
    root = write_tiles(tmp_path / "tiles", {"normal": 8, "tumour": 4})
    normal = root / "normal"
    (normal / "00.png").write_text("text, named like a picture")
    (normal / "01.png").write_bytes(encoded(5)[:-300])
    (normal / "02.png").write_bytes(b"")
    (normal / "03.png").unlink()
    (normal / "03.png").symlink_to(tmp_path / "gone.png")
    (normal / "04.png").unlink()
    (normal / "04.png").mkdir()
    (normal / "05.png").write_bytes(png_header_only(60_000, 60_000))

    config = tiles(root)
    config.check()
    counts = run_ingest(config, tmp_path / "out")

    assert counts["drops"] == {"not_an_image": 2, "too_many_pixels": 1, "truncated": 1, "unreadable": 2}
    assert counts["samples"] == 6
    assert {sample.id for sample in read_samples(tmp_path / "out") if sample.answer == "normal"} == {
        "tiles/normal/06.png",
        "tiles/normal/07.png",
    }


def test_files_that_are_no_pictures_are_passed_over(tmp_path):
    root = write_tiles(tmp_path, {"a": 3, "b": 3})
    (root / "README.txt").write_text("about")
    (root / "a" / "Thumbs.db").write_text("about")

    assert len(tiles(root).plan()) == 6


def test_a_changed_folder_changes_the_fingerprint(tmp_path):
    root = write_tiles(tmp_path, {"a": 3, "b": 3})
    before = tiles(root).fingerprint()

    assert tiles(root).fingerprint() == before
    (root / "a" / "new.png").write_bytes(encoded(99))
    assert tiles(root).fingerprint() != before


@pytest.mark.parametrize("folder", ["nowhere", "tiles/a/00.png"])
def test_a_root_that_is_no_folder_is_named(tmp_path, folder):
    write_tiles(tmp_path / "tiles", {"a": 2, "b": 2})

    assert f"tiles.root: {tmp_path / folder} is not a folder" in error_of(tiles(tmp_path / folder))


def test_one_class_is_not_enough(tmp_path):
    assert "at least two classes" in error_of(tiles(write_tiles(tmp_path, {"a": 3})))


def test_an_empty_class_folder_is_named_with_the_cure(tmp_path):
    root = write_tiles(tmp_path, {"a": 3, "b": 3})
    (root / "c").mkdir()

    message = error_of(tiles(root))

    assert str(root / "c") in message
    assert "fill it or remove it" in message


def test_a_class_with_one_group_is_named_with_the_cure(tmp_path):
    message = error_of(tiles(write_tiles(tmp_path, {"normal": 5, "rare": 1})))

    assert "class 'rare' has 1 group" in message
    assert "add images of another patient" in message


def test_more_folds_than_groups_are_refused(tmp_path):
    message = error_of(tiles(write_tiles(tmp_path, {"normal": 5, "rare": 3}), folds=5))

    assert "folds: 5 is more than the 3 groups" in message


def test_a_class_name_for_no_folder_is_refused(tmp_path):
    message = error_of(tiles(write_tiles(tmp_path, {"a": 3, "b": 3}), class_names={"c": "tumour"}))

    assert "tiles.class_names: no class folder is called c" in message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,patient", "00.png,1"], "no column 'group'; it has file, patient"),
        (["name,group", "00.png,1"], "no column 'file'"),
        ([""], "no column 'file'"),
        (["file,group", "00.png,1"], "no row for 01.png (and 3 more)"),
        (["file,group", "00.png", "01.png,1"], "00.png"),
    ],
    ids=["wrong group column", "wrong file column", "empty", "missing rows", "short row"],
)
def test_a_group_table_that_does_not_fit_is_named(tmp_path, lines, message):
    root = write_tiles(tmp_path / "tiles", {"a": 3, "b": 3})
    found = error_of(tiles(root, groups=write_csv(tmp_path / "groups.csv", *lines)))

    assert "groups.csv" in found
    assert message in found


def test_a_group_table_in_another_encoding_is_named(tmp_path):
    root = write_tiles(tmp_path / "tiles", {"a": 3, "b": 3})
    (tmp_path / "groups.csv").write_bytes("file,group\n00.png,Präparat\n".encode("latin-1"))

    assert "groups.csv" in error_of(tiles(root, groups=tmp_path / "groups.csv"))


def test_a_group_table_with_a_byte_order_mark_is_read(tmp_path):
    root = write_tiles(tmp_path / "tiles", {"a": 2, "b": 2})
    rows = "".join(f"{label},{index:02d}.png,{label}{index}\n" for label in "ab" for index in range(2))
    (tmp_path / "groups.csv").write_text("class,file,group\n" + rows, encoding="utf-8-sig")

    assert len(tiles(root, groups=tmp_path / "groups.csv").plan()) == 4


def test_a_missing_group_table_is_named(tmp_path):
    root = write_tiles(tmp_path / "tiles", {"a": 3, "b": 3})

    assert "gone.csv is not a file" in error_of(tiles(root, groups=tmp_path / "gone.csv"))


def test_a_pattern_that_misses_a_file_names_it(tmp_path):
    message = error_of(tiles(write_tiles(tmp_path, {"a": 3, "b": 3}), group_pattern=r"^(P\d)"))

    assert "does not match 00.png" in message


@pytest.mark.parametrize(("pattern", "message"), [(r"^P\d", "one bracket pair"), ("(", "group_pattern")])
def test_a_pattern_that_names_no_group_is_refused(tmp_path, pattern, message):
    with pytest.raises(ValidationError, match=message):
        tiles(tmp_path, group_pattern=pattern)


def test_near_duplicates_of_lung_tiles_never_stand_on_both_sides(data_root):
    # Augmented copies of one picture fill LC25000; its clusters say which belong together.
    root = data_root / "tiles" / "lc25000_lung"
    config = tiles(
        root / "tiles",
        groups=root / "near_duplicate_groups.csv",
        group_columns=("class", "original_tile_cluster"),
        folds=3,
    )

    units = config.plan()
    (sample,) = config.read(units[0])

    sides = defaultdict(set)
    for _, label, group, split, *_ in units:
        assert group.startswith(f"{label}/")
        sides[group].add(split)
    assert len(units) > len(sides) > 10
    assert {len(splits) for splits in sides.values()} == {1}
    assert {unit[3] for unit in units} == {"fold-0", "fold-1", "fold-2"}
    assert isinstance(sample, Sample)
    assert sample.answer in sample.choices
