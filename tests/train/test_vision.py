"""Stage `vision`: each visual token is asked for what lies at its place, and the tower alone learns from it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.fixtures import FAMILIES, make_image, make_sample

from pathloom.card import read_card
from pathloom.images import encode_png
from pathloom.models.load import load_model
from pathloom.models.nano import build_config, build_model, build_processor, number_ids, train_tokenizer
from pathloom.models.presets import find_preset
from pathloom.phantom.shapes import place
from pathloom.schema import Box, Image, Region, Sample
from pathloom.stage import UserError, read_jsonl
from pathloom.store import read_samples, write_samples
from pathloom.train import sights, speaking
from pathloom.train.config import VisionConfig
from pathloom.train.loop import TRAINING_LOG, Progress, load_trainable
from pathloom.train.parts import module_of
from pathloom.train.rows import turned
from pathloom.train.sights import (
    LEAST_COMMON,
    LEAST_SHARE,
    Batches,
    Picture,
    Sight,
    Turned,
    Vocabulary,
    place_words,
    pool,
    region_targets,
    sights_of,
    tells,
    turned_box,
    vocabulary,
    words_of,
)
from pathloom.train.speaking import projectors, side_embeddings, speak
from pathloom.train.vision import Tower, run_vision, train_tower

STEPS = 4
TRAINER = {
    "max_steps": STEPS,
    "save_steps": 1,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
}
LARGEST = 448 * 448


def config(**fields: Any) -> VisionConfig:
    given = {
        "name": "tower",
        "kind": "vision",
        "samples": ("phantoms",),
        "model": {"stage": "untrained"},
        "trainer": TRAINER,
    }
    return VisionConfig.model_validate({**given, **fields})


class Stopped(BaseException):
    """Stands for a kill: nothing in the code catches it."""


@pytest.fixture
def inputs(phantom_folder: Path, model_folder: Path) -> dict[str, Path]:
    return {"phantoms": phantom_folder, "untrained": model_folder}


@pytest.fixture(scope="module")
def trained(
    phantom_folder: Path, model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Family -> an uninterrupted run: its folder and its counts."""
    runs = {}
    for family in FAMILIES:
        out = tmp_path_factory.mktemp(f"trained_{family}")
        inputs = {"phantoms": phantom_folder, "untrained": model_folders[family]}
        runs[family] = (out, run_vision(config(), inputs, out))
    return runs


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# What a token shows


def shown(
    regions: Sequence[tuple[Box, str | None]],
    *,
    size_px: tuple[int, int] = (20, 20),
    grid: tuple[int, int] = (2, 2),
    words: Sequence[str] = ("red", "blue"),
) -> tuple[list[list[float]], list[list[float]], list[bool]]:
    """Words, boxes and shows of each token; unless given, four tokens of 10 x 10 px."""
    found = region_targets([Region(box_px=box, label=label) for box, label in regions], size_px, grid, words)
    is_word, boxes, shows = (part.tolist() for part in found)
    return is_word, [[round(side, 4) for side in box] for box in boxes], shows


def test_tokens_go_row_by_row_from_the_upper_left():
    # 30 x 20 px in 2 rows and 3 columns: the last token of the first row is the third
    is_word, boxes, shows = shown([((20, 0, 30, 10), "red")], size_px=(30, 20), grid=(2, 3))

    assert shows == [False, False, True, False, False, False]
    assert is_word[2] == [1, 0]
    assert boxes[2] == [0.6667, 0, 1, 0.5]
    assert boxes[3] == [0, 0, 0, 0]


def test_cells_of_a_picture_that_is_not_square_are_its_sides_by_columns_and_rows():
    # 40 x 30 px in 3 rows and 2 columns: cells of 20 x 10 px, and the lower right one is the last
    _, boxes, shows = shown([((20, 20, 40, 30), "red")], size_px=(40, 30), grid=(3, 2))

    assert shows == [False] * 5 + [True]
    assert boxes[5] == [0.5, 0.6667, 1, 1]


def test_every_token_that_a_region_covers_shows_the_whole_of_its_box():
    is_word, boxes, shows = shown([((0, 5, 20, 10), "blue")])

    assert shows == [True, True, False, False]
    assert boxes[0] == boxes[1] == [0, 0.25, 1, 0.5]
    assert is_word == [[0, 1], [0, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("turned", [False, True])
def test_a_token_shows_the_region_that_covers_most_of_it_whatever_their_order(turned):
    regions: list[tuple[Box, str | None]] = [((0, 0, 10, 4), "red"), ((0, 4, 10, 20), "blue")]
    if turned:
        regions.reverse()

    is_word, boxes, _ = shown(regions)

    assert is_word[0] == [0, 1], "0.6 of the first token is blue and 0.4 red"
    assert boxes[0] == [0, 0.2, 0.5, 1]


@pytest.mark.parametrize(("width_px", "covers"), [(0.9, False), (1.1, True)])
def test_a_region_that_covers_too_little_of_a_token_is_not_shown_there(width_px, covers):
    assert LEAST_SHARE == 0.1

    is_word, boxes, shows = shown([((10 - width_px, 0, 20, 10), "red")])

    assert shows == [covers, True, False, False]
    assert is_word[0] == [float(covers), 0]
    assert any(boxes[0]) == covers


def test_labels_are_words_as_they_are_written():
    is_word, _, _ = shown(
        [((0, 0, 10, 10), "Small  red, ring")], words=("red", "Red", "ring", "Small", "small")
    )

    assert is_word[0] == [1, 0, 1, 1, 0]
    assert words_of("H&E-stained (PD-L1, 4.5 mm). It's Ki67_x.") == {
        *("H&E-stained", "PD-L1", "4.5", "mm", "It's", "Ki67", "x")
    }
    assert words_of("  ...") == words_of(None) == frozenset()


def test_a_region_without_a_label_still_gives_its_box():
    is_word, boxes, shows = shown([((0, 0, 10, 10), None)])

    assert shows[0]
    assert is_word[0] == [0, 0]
    assert boxes[0] == [0, 0, 0.5, 0.5]


def test_without_regions_no_token_shows_anything():
    is_word, boxes, shows = shown([])

    assert not any(shows)
    assert is_word == [[0, 0]] * 4
    assert boxes == [[0, 0, 0, 0]] * 4


def pictured(
    words: str = "", labels: Sequence[str | None] = (), source: str = "book", count: int = 1
) -> list[Picture]:
    regions = tuple(Region(box_px=(0, 0, 1, 1), label=label) for label in labels)
    return [Picture(make_image(0), source, regions, words_of(words))] * count


def test_words_come_with_the_share_of_regions_that_bear_them():
    pictures = [*pictured(labels=["red ring"]), *pictured(labels=["red", None, "ring ring"])]

    found = vocabulary(pictures, "tower")

    shares = {"left": 1.0, "red": 0.5, "ring": 0.5, "upper": 1.0}
    assert found == Vocabulary(shares, {"book": frozenset(shares)})


@pytest.mark.parametrize(
    ("box_px", "words"),
    [
        ((0, 0, 30, 10), {"upper", "left"}),
        ((0, 0, 90, 30), {"middle", "centre"}),
        ((61, 19, 89, 30), {"lower", "right"}),
        ((80, 0, 90, 2), {"upper", "right"}),
    ],
)
def test_a_box_lies_in_the_third_of_each_side_that_holds_its_centre(box_px, words):
    stretched = (box_px[0], 3 * box_px[1], box_px[2], 3 * box_px[3])

    assert place_words(box_px, (90, 30)) == place_words(stretched, (90, 90)) == words
    assert words == set(place(stretched, 90).split())  # as the drawn questions name it


def test_words_are_counted_among_the_sources_that_tell_them_and_rare_ones_left_out():
    assert LEAST_COMMON == 0.01
    pictures = [
        *pictured("a ring", count=297),
        *pictured("a disc", count=3),
        *pictured("rare", source="other", count=1),
        *pictured("a", source="other", count=99),
        *pictured(labels=["red"], source="boxes", count=7),
        *pictured("rare", count=1),
    ]

    found = vocabulary(pictures, "tower")

    assert found.of_source == {
        "book": frozenset({"a", "ring"}),
        "other": frozenset({"a", "rare"}),
        "boxes": frozenset({"red", "upper", "left"}),
    }
    always = dict.fromkeys(("red", "upper", "left"), 1.0)
    assert found.shares == {"a": 399 / 401, "rare": 0.01, "ring": 297 / 301, **always}
    assert found.rare == {"disc"}


def test_labels_and_options_are_never_too_rare():
    options = words_of("common rare")
    pictures = [
        *pictured(labels=["nucleus"] * 199 + ["mitosis"]),
        *(replace(*pictured(word, source="classes"), told=options) for word in ["common"] * 199 + ["rare"]),
    ]

    found = vocabulary(pictures, "tower")

    assert set(found.shares) == {"nucleus", "mitosis", "common", "rare", "upper", "left"}
    assert found.shares["mitosis"] == found.shares["rare"] == 1 / 200
    assert not found.rare


def test_a_sample_is_seen_as_its_boxes_or_its_finding_and_its_answer_in_words():
    images = (make_image(0), make_image(1))
    region = Region(box_px=(0, 0, 8, 8), label="gland", image=1)
    fields = {"choices": ("ring", "disc"), "answer": "ring"}

    def seen(name: str, task: str, **more: Any) -> list[Picture]:
        sights = sights_of([make_sample(name, task=task, images=images, **more)])
        return [picture for (picture,) in sights]

    boxes = seen("b", "boxes", regions=(region,))
    asked = seen("y", "yes_no", answer="yes", finding="red")
    plain = seen("d", "choice", **fields)
    both = seen("c", "choice", finding="red", **fields)

    assert [picture.regions for picture in boxes] == [(), (region.model_copy(update={"image": 0}),)]
    assert [picture.image for picture in asked] == list(images)
    for pictures, words, told in (
        (asked, {"red"}, None),
        (plain, {"ring"}, {"ring", "disc"}),
        (both, {"red", "ring"}, {"red", "ring", "disc"}),
    ):
        assert [picture.words for picture in pictures] == [words] * 2
        assert [picture.told for picture in pictures] == [told] * 2
    assert len({boxes[0].source, asked[0].source}) == 2

    twice = sights_of([make_sample("t", task="choice", images=images, regions=(region,), **fields)])
    assert [[(bool(picture.regions), bool(picture.words)) for picture in sight] for sight in twice] == [
        [(False, False), (False, True)],
        [(True, False), (False, True)],
    ]
    assert [[picture.image for picture in sight] for sight in twice] == [[image] * 2 for image in images]


def test_a_sample_that_says_nothing_of_what_is_seen_is_counted_and_left_out(tmp_path, model_folder):
    def sample(name: str, task: str, **more: Any) -> Sample:
        return make_sample(name, task=task, images=(make_image(0),), **more)

    count, silent = sample("n", "count", answer="3"), sample("y", "yes_no", answer="no")
    telling = sample("t", "yes_no", answer="no", finding="red")

    assert [tells(each) for each in (count, silent, telling)] == [False, False, True]
    given = config()
    counts = train_tower(given, [silent, telling], str(model_folder), tmp_path)
    assert (counts["trained_on"], counts["samples_that_tell_nothing"]) == (1, 1)
    with pytest.raises(
        UserError, match=r"tower\.tasks: no training Sample of count has boxes, .* leave the task"
    ):
        train_tower(given, [count, telling], str(model_folder), tmp_path)


def test_boxes_of_one_image_that_several_samples_hold_are_seen_together():
    """A folder of boxes gives a Sample for each label: what one does not name is there all the same."""
    gland, mitosis = (
        Region(box_px=(at, 0, at + 8, 8), label=label) for at, label in ((0, "gland"), (9, "mitosis"))
    )
    samples = [
        make_sample("a", task="boxes", images=(make_image(0),), regions=(gland,)),
        make_sample("b", task="boxes", images=(make_image(0),), regions=(mitosis, gland)),
        make_sample("c", task="boxes", images=(make_image(1),), regions=()),
    ]

    assert [picture.regions for (picture,) in sights_of(samples)] == [(gland, mitosis)] * 2 + [()]


def test_every_token_shows_the_words_of_the_whole_and_is_asked_for_no_others(eyes):
    _, batches, cell_px = eyes
    batches.vocabulary = Vocabulary(
        {"bright": 0.5, "dark": 0.5, "white": 1.0},
        {"lamps": frozenset({"white"}), "answers": frozenset({"bright", "dark"})},
    )
    told = Picture(lit((2, 2), -1, cell_px).image, "answers", words=words_of("very dark"))

    batch = batches(alone(lit((2, 3), 4, cell_px), told, replace(told, told=words_of("dark"))))

    assert batch["words"].tolist() == [*([0, 0, shows] for shows in (0, 0, 0, 0, 1, 0)), *[[0, 1, 0]] * 8]
    assert batch["told"].tolist() == [
        *[[False, False, True]] * 6,
        *[[True, True, False]] * 4,
        *[[False, True, False]] * 4,
    ]
    assert batch["whole"].tolist() == [False] * 6 + [True] * 8
    assert not batch["shows"][6:].any()


def test_tokens_of_a_whole_picture_give_way_to_their_mean():
    values = torch.tensor([[1.0, 0], [3, 4], [5, 6], [7, 8], [1, 1], [2, 4], [6, 1]])
    whole = torch.tensor([True, True, False, False, True, True, True])

    pooled = pool(values, whole, torch.tensor([2, 2, 3]))

    assert pooled.tolist() == [[2, 2], [2, 2], [5, 6], [7, 8], [3, 2], [3, 2], [3, 2]]


def test_the_tower_sees_an_image_once_for_all_that_is_known_of_it(eyes, model_folders):
    """And loses as much by it as where it sees the image twice."""
    visual, batches, cell_px = eyes
    batches.vocabulary = Vocabulary(
        {"dark": 0.5, "white": 1.0}, {"lamps": frozenset({"white"}), "answers": frozenset({"dark"})}
    )
    boxed, other = lit((2, 3), 4, cell_px), lit((2, 2), 1, cell_px)
    told = Picture(boxed.image, "answers", words=words_of("dark"))

    once, twice = batches([(other,), (boxed, told)]), batches(alone(other, boxed, told))

    names = ("words", "told", "boxes", "shows", "whole", "num_tokens")
    assert all(torch.equal(once[name], twice[name]) for name in names)
    assert once["num_tokens"].tolist() == [4, 6, 6]
    assert (len(once["image_grid_thw"]), len(twice["image_grid_thw"])) == (2, 3)
    assert once["tokens"].tolist() == [*range(4), *range(4, 10), *range(4, 10)]
    family = "qwen3_vl" if hasattr(visual, "deepstack_merger_list") else "qwen2_5_vl"
    model, _ = load_trainable(config(max_pixels=LARGEST), str(model_folders[family]))
    tower = Tower(model, batches)
    assert torch.allclose(tower(**once)["loss"], tower(**twice)["loss"])


def test_the_loss_does_not_know_of_words_that_are_not_told(model_folder):
    model, processor = load_trainable(config(max_pixels=LARGEST), str(model_folder))
    batches = Batches(
        processor.image_processor, Vocabulary({"white": 1.0, "dark": 0.5}, {"lamps": frozenset({"white"})})
    )
    tower = Tower(model, batches)
    batch = batches(alone(lit((2, 3), 4, 28)))
    turned = {**batch, "words": torch.where(batch["told"], batch["words"], 1 - batch["words"])}
    assert not torch.equal(batch["words"], turned["words"])

    assert torch.equal(tower(**batch)["loss"], tower(**turned)["loss"])
    asked = {**turned, "told": torch.ones_like(batch["told"])}
    assert tower(**asked)["loss"] > tower(**batch)["loss"] + 0.1


# The order of tokens


def lit(grid: tuple[int, int], token: int, cell_px: int) -> Picture:
    """A black picture with one white cell, framed by a region, or with none for token -1."""
    rows, columns = grid
    pixels = np.zeros((rows * cell_px, columns * cell_px, 3), dtype=np.uint8)
    regions: tuple[Region, ...] = ()
    if token >= 0:
        x, y = token % columns * cell_px, token // columns * cell_px
        pixels[y : y + cell_px, x : x + cell_px] = 255
        regions = (Region(box_px=(x, y, x + cell_px, y + cell_px), label="white"),)
    image = Image(
        path="lit.png",
        data=encode_png(PILImage.fromarray(pixels)),
        width_px=columns * cell_px,
        height_px=rows * cell_px,
    )
    return Picture(image, "lamps", regions)


def alone(*pictures: Picture) -> list[Sight]:
    """Each picture as all that is known of its image."""
    return [(picture,) for picture in pictures]


@pytest.fixture(params=FAMILIES)
def eyes(request: pytest.FixtureRequest, model_folders) -> tuple[Any, Batches, int]:
    """The untrained tower of a family, its collator and the side of a token's cell in pixels."""
    model, processor = load_trainable(config(max_pixels=LARGEST), str(model_folders[request.param]))
    of_pictures = processor.image_processor
    return (
        model.model.visual,
        Batches(of_pictures, Vocabulary({"white": 1.0}, {"lamps": frozenset({"white"})})),
        of_pictures.patch_size * of_pictures.merge_size,
    )


GRID = (5, 6)
"""More cells than a window of Qwen2.5-VL's attention holds, as windows change the order inside the tower."""
TOKENS = GRID[0] * GRID[1]


def test_targets_stand_in_the_order_of_the_patches(eyes):
    _, batches, cell_px = eyes
    grids_and_tokens = [((2, 3), 4), (GRID, 17), ((4, 2), 1), (GRID, 6)]

    batch = batches(alone(*(lit(grid, token, cell_px) for grid, token in grids_and_tokens)))

    patches_a_token = batches.image_processor.merge_size**2
    bright = batch["pixel_values"].mean(dim=1).view(-1, patches_a_token) > 0
    assert torch.equal(bright, batch["shows"][:, None].expand_as(bright))
    assert batch["shows"].nonzero().flatten().tolist() == [4, 6 + 17, 6 + TOKENS + 1, 6 + TOKENS + 8 + 6]


def test_targets_stand_in_the_order_of_the_towers_tokens(eyes):
    visual, batches, cell_px = eyes
    batch = batches(alone(*(lit(GRID, token, cell_px) for token in range(-1, TOKENS))))

    with torch.no_grad():
        output = visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])

    assert torch.equal(batch["shows"].view(-1, TOKENS)[1:], torch.eye(TOKENS, dtype=torch.bool))
    for features in (output.pooler_output, *getattr(output, "deepstack_features", ())):
        dark, *ones = features.view(TOKENS + 1, TOKENS, -1)
        changed_most = [int((one - dark).norm(dim=-1).argmax()) for one in ones]
        assert changed_most == list(range(TOKENS))


# Turns


def test_all_that_is_known_of_an_image_is_turned_together_and_in_all_eight_ways():
    (boxed,), plain = pictured(labels=["red"]), Picture(make_image(0), "book", words=words_of("dark"))
    rows = Turned([(plain,), (boxed, plain)], augment=True, seed=0)
    turns = []
    for epoch in range(80):
        rows.epoch = epoch
        turned = rows[1]
        assert rows[1] == turned == (boxed.turned(turned[0].turn), replace(plain, turn=turned[0].turn))
        turns.append(turned[0].turn)

    assert set(turns) == set(range(8))
    still = Turned([(plain,), (boxed, plain)], augment=False, seed=0)
    assert [still[0], still[1]] == [(plain,), (boxed, plain)]


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_box_frames_what_it_framed(turn):
    width_px, height_px = 7, 5
    frame = (1, 2, 4, 3)  # three pixels wide and one high
    pixels = np.zeros((height_px, width_px), dtype=np.uint8)
    pixels[frame[1] : frame[3], frame[0] : frame[2]] = 255

    x1, y1, x2, y2 = (int(side) for side in turned_box(frame, (width_px, height_px), turn))

    found = np.asarray(turned(PILImage.fromarray(pixels), turn))
    assert found[y1:y2, x1:x2].size == 3
    assert (found[y1:y2, x1:x2] == 255).all()


def test_patches_are_those_of_the_turned_picture(eyes):
    _, batches, cell_px = eyes
    batches.vocabulary = Vocabulary({"white": 1.0}, {"answers": frozenset({"white"})})
    plain = Picture(lit((2, 3), 1, cell_px).image, "answers", words=words_of("white"))

    upright, quarter = batches(alone(plain)), batches(alone(plain.turned(1)))

    assert upright["image_grid_thw"].tolist()[0][1:] == quarter["image_grid_thw"].tolist()[0][:0:-1]
    patches_a_token = batches.image_processor.merge_size**2
    for batch, token in ((upright, 1), (quarter, 2)):  # a quarter against the clock: 2 columns, row by row
        bright = batch["pixel_values"].mean(dim=1).view(-1, patches_a_token).mean(dim=1)
        assert int(bright.argmax()) == token


# In words


@pytest.mark.parametrize("family", FAMILIES)
def test_after_speaking_a_token_is_near_the_embeddings_of_the_words_that_it_shows(model_folders, family):
    model, processor = load_trainable(config(max_pixels=LARGEST), str(model_folders[family]))
    cell_px = processor.image_processor.patch_size * processor.image_processor.merge_size
    words = ("red", "white")
    batches = Batches(
        processor.image_processor, Vocabulary(dict.fromkeys(words, 0.5), {"lamps": frozenset(words)})
    )
    pictures = [lit(GRID, token, cell_px) for token in range(-1, TOKENS)]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    counts = speak(model, processor.tokenizer, batches, pictures, seed=0)

    assert counts == {"spoken_words": 2, "spoken_sides": False}
    batch = batches(alone(*pictures))
    with torch.no_grad():
        seen = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
    embeddings = model.get_input_embeddings().weight.detach()
    red, white = (
        embeddings[processor.tokenizer.encode(f" {word}")].mean(dim=0) - embeddings.mean(dim=0)
        for word in words
    )
    said = torch.linalg.lstsq(
        torch.stack([red, white]).T, (seen - embeddings.mean(dim=0)).T
    ).solution  # [words, tokens]
    assert said[1, batch["shows"]].min() > 0.7 > 0.3 > said[1, ~batch["shows"]].max()
    assert said[0].abs().max() < 0.1, "nothing is red"
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert len(changed) == 2 * len(projectors(model))
    assert {module_of(name) for name in changed} == {"projector"}


@pytest.mark.parametrize("family", FAMILIES)
def test_after_speaking_words_of_regions_and_of_wholes_are_told_apart(model_folders, family):
    """Half of the pictures tell of a region, half of the whole: neither half takes the other for saying no.

    No single token of a picture knows whether another one is lit; their mean does.
    """
    model, processor = load_trainable(config(max_pixels=LARGEST), str(model_folders[family]))
    cell_px = processor.image_processor.patch_size * processor.image_processor.merge_size
    told = {"lamps": frozenset({"white"}), "answers": frozenset({"black", "red"})}
    vocabulary = Vocabulary(dict.fromkeys(("black", "red", "white"), 0.5), told)
    batches = Batches(processor.image_processor, vocabulary)
    lamps = [lit((2, 3), token, cell_px) for token in range(-1, 6)]
    answers = [
        Picture(lamp.image, "answers", words=frozenset({"red" if lamp.regions else "black"}))
        for lamp in lamps
    ]

    speak(model, processor.tokenizer, batches, [*lamps, *answers], seed=0)

    batch = batches(alone(*lamps))
    with torch.no_grad():
        seen = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
    embeddings = model.get_input_embeddings().weight.detach()
    mean = embeddings.mean(dim=0)
    words = [
        embeddings[processor.tokenizer.encode(f" {word}")].mean(dim=0) - mean
        for word in ("white", "black", "red")
    ]
    said = torch.linalg.lstsq(torch.stack(words).T, (seen - mean).T).solution.T.view(7, 6, 3)
    white, (black, red) = said[:, :, 0].flatten(), said.mean(dim=1).T[1:]
    assert white[batch["shows"]].min() > 0.7 > 0.3 > white[~batch["shows"]].max()
    assert torch.allclose(black, torch.tensor([1.0, *[0.0] * 6]), atol=0.1)
    assert torch.allclose(red, torch.tensor([0.0, *[1.0] * 6]), atol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_speaking_with_one_picture_or_more_words_than_directions_leaves_finite_weights(model_folders, family):
    model, processor = load_trainable(config(max_pixels=LARGEST), str(model_folders[family]))
    width = model.config.text_config.hidden_size
    words = frozenset(f"w{index}" for index in range(width + 3))
    batches = Batches(
        processor.image_processor, Vocabulary(dict.fromkeys(sorted(words), 0.5), {"one": words})
    )
    picture = Picture(lit((2, 2), 0, 28).image, "one", words=frozenset({"w0"}))

    assert not speak(model, processor.tokenizer, batches, [picture], seed=0)["spoken_sides"]

    batch = batches(alone(picture))
    with torch.no_grad():
        seen = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
    embeddings = model.get_input_embeddings().weight.detach()
    assert torch.isfinite(seen).all()
    assert seen.norm(dim=1).max() < 10 * embeddings.norm(dim=1).max()


def test_at_most_a_thousand_pictures_of_each_source_are_fitted():
    many = pictured("a", count=1500) + pictured("b", source="other", count=20)

    drawn = speaking._drawn(many, 0)

    assert [sum(picture.source == source for picture in drawn) for source in ("book", "other")] == [1000, 20]


def test_a_number_is_spoken_without_the_space_before_it(model_folder):
    tokenizer = load_model(str(model_folder))[1].tokenizer
    embeddings = torch.eye(len(tokenizer))

    for word, text in (("7", "7"), ("ring", " ring")):
        tokens = tokenizer.encode(text)
        expected = torch.zeros(len(tokenizer)).index_add(0, torch.tensor(tokens), torch.ones(len(tokens)))
        assert torch.allclose(speaking._embedding(word, tokenizer, embeddings), expected / len(tokens))


def test_after_speaking_the_sides_of_a_box_are_read_off_as_numbers():
    preset = find_preset("qwen3-vl-nano")  # whose tower knows places before any training
    tokenizer = train_tokenizer(["a red ring", "a white ring"], 1500, number_tokens=True)
    processor = build_processor(preset, tokenizer, max_pixels=LARGEST)
    model = build_model(preset, build_config(preset, tokenizer), 0, tokenizer)
    batches = Batches(processor.image_processor, Vocabulary({"white": 0.5}, {"lamps": frozenset({"white"})}))
    pictures = [lit((3, 4), token, 32) for token in range(12)]

    assert speak(model, tokenizer, batches, pictures, seed=0)["spoken_sides"]

    batch = batches(alone(*pictures))
    with torch.no_grad():
        seen = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
    embeddings = model.get_input_embeddings().weight.detach()
    said = embeddings[tokenizer.encode(" white")].mean(dim=0) - embeddings.mean(dim=0)
    sides = side_embeddings(embeddings, number_ids(tokenizer), said[None])
    assert len(sides) == 4
    for side, places in enumerate(sides):
        fit = (seen[batch["shows"]] - embeddings.mean(dim=0)) @ places.T - places.square().sum(dim=1) / 2
        assert (fit.argmax(dim=1) / 1000 - batch["boxes"][batch["shows"], side]).abs().max() < 0.05


def test_sides_of_boxes_are_not_told_without_number_tokens_or_room():
    embeddings = torch.randn(1100, 192)
    numbers = {number: number for number in range(1001)}

    assert side_embeddings(embeddings, {}, torch.randn(3, 192)) == []
    assert side_embeddings(embeddings, numbers, torch.randn(97, 192)) == []
    sides = side_embeddings(embeddings, numbers, said := torch.randn(96, 192))
    assert len(sides) == 4
    spans = torch.stack([side.T @ torch.randn(1001) for side in sides])
    assert torch.allclose(spans @ spans.T, torch.diag((spans @ spans.T).diagonal()), atol=0.1)
    assert (spans @ said.T).abs().max() < 0.1


def test_a_run_that_speaks_differs_in_the_projector_alone(inputs, trained, tmp_path):
    counts = run_vision(config(speak=True), inputs, tmp_path)

    assert counts["spoken_words"] == counts["words"] > 0
    spoken, silent = weights(tmp_path), weights(trained["qwen2_5_vl"][0])
    changed = {name for name in silent if not torch.equal(spoken[name], silent[name])}
    assert changed == {"visual.merger.mlp.2.weight", "visual.merger.mlp.2.bias"}


# Runs


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_and_its_mergers_learn_and_the_language_model_stays_bitwise(trained, model_folders, family):
    out, counts = trained[family]
    before, after = weights(model_folders[family]), weights(out)

    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {module_of(name) for name in changed} == {"vision", "projector"}
    mergers = {name for name in before if "merger" in name and name.endswith("weight")}
    assert any("deepstack" in name for name in mergers) == (family == "qwen3_vl")
    assert mergers <= changed
    assert [of["trainable"] > 0 for of in counts["modules"].values()] == [True, True, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_leaves_a_plain_model_folder(trained, model_folders, family):
    out, counts = trained[family]

    assert (counts["trained_on"], counts["steps"]) == (4, STEPS)
    model, processor = load_model(str(out))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert processor.chat_template == load_model(str(model_folders[family]))[1].chat_template
    assert {path.name for path in out.iterdir()} == {
        TRAINING_LOG,
        *(path.name for path in model_folders[family].iterdir()),
    }
    log = read_jsonl(out / TRAINING_LOG)
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert all(line["loss"] > 0 for line in log)
    card = read_card(out)
    assert (card.tasks, card.trained_on, card.base) == (("boxes",), ("phantom_structures",), "untrained")
    assert card.num_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_tower_learns_as_if_the_model_had_never_seen(
    trained, model_folders, inputs, tmp_path, family
):
    for name, base in (("after", trained[family][0]), ("before", model_folders[family])):
        (tmp_path / name).mkdir()
        run_vision(config(fresh=True), {**inputs, "untrained": base}, tmp_path / name)

    assert not same_weights(trained[family][0], model_folders[family])
    assert same_weights(tmp_path / "after", tmp_path / "before")


@pytest.mark.parametrize("stopped_after", [2, STEPS], ids=["in the middle", "after the last step"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    trained, inputs, tmp_path, monkeypatch, stopped_after
):
    def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == stopped_after:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_save", on_save)
        with pytest.raises(Stopped):
            run_vision(config(), inputs, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    steps: list[int] = []
    monkeypatch.setattr(
        Progress, "on_step_end", lambda self, args, state, control, **rest: steps.append(state.global_step)
    )

    counts = run_vision(config(), inputs, tmp_path)

    whole, whole_counts = trained["qwen2_5_vl"]
    assert steps == list(range(stopped_after + 1, STEPS + 1))
    assert counts == whole_counts
    assert same_weights(tmp_path, whole)
    assert read_jsonl(tmp_path / TRAINING_LOG) == read_jsonl(whole / TRAINING_LOG)


def test_a_resumed_run_turns_pictures_as_an_uninterrupted_one_does(inputs, tmp_path, monkeypatch):
    """Of four choices, so that an epoch is two steps; without turns the weights are others."""
    found = read_samples(inputs["phantoms"])
    choices = [sample.model_copy(update={"regions": ()}) for sample in found if sample.task == "choice"]
    write_samples([sample for sample in choices if sample.split == "train"][:4], tmp_path / "four")
    inputs = {**inputs, "phantoms": tmp_path / "four"}
    given = {"augment": True, "tasks": {"choice": 1}, "trainer": {**TRAINER, "max_steps": 5}}
    for name in ("whole", "stopped", "upright"):
        (tmp_path / name).mkdir()
    epochs = set()
    take = Turned.__getitem__

    def watched(rows: Turned, index: int) -> Sight:
        epochs.add(rows.epoch)
        return take(rows, index)

    with monkeypatch.context() as patch:
        patch.setattr(Turned, "__getitem__", watched)
        run_vision(config(**given), inputs, tmp_path / "whole")
    assert epochs == {0, 1, 2}

    def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_save", on_save)
        with pytest.raises(Stopped):
            run_vision(config(**given), inputs, tmp_path / "stopped")
    run_vision(config(**given), inputs, tmp_path / "stopped")
    run_vision(config(**{**given, "augment": False}), inputs, tmp_path / "upright")

    assert read_jsonl(tmp_path / "whole" / TRAINING_LOG)[-1]["step"] == 5
    assert same_weights(tmp_path / "stopped", tmp_path / "whole")
    assert not same_weights(tmp_path / "upright", tmp_path / "whole")


def test_a_run_depends_on_its_seed_and_not_on_what_was_drawn_before(trained, inputs, tmp_path):
    for name in ("same", "other"):
        (tmp_path / name).mkdir()
    torch.manual_seed(7)

    run_vision(config(), inputs, tmp_path / "same")
    run_vision(config(seed=1), inputs, tmp_path / "other")

    assert same_weights(tmp_path / "same", trained["qwen2_5_vl"][0])
    assert not same_weights(tmp_path / "other", trained["qwen2_5_vl"][0])


def test_the_settings_of_a_gpu_train_the_same_model(inputs, trained, tmp_path):
    """Recomputed activations and bf16 autocast, which trainer_settings sets where there is a GPU."""
    for name, on_gpu in (("recomputed", {"activation_checkpointing": True}), ("bf16", {"bf16": True})):
        (tmp_path / name).mkdir()
        run_vision(config(trainer={**TRAINER, **on_gpu}), inputs, tmp_path / name)

    whole = trained["qwen2_5_vl"][0]
    assert same_weights(tmp_path / "recomputed", whole)
    assert not same_weights(tmp_path / "bf16", whole)
    losses = [read_jsonl(folder / TRAINING_LOG)[-1]["loss"] for folder in (tmp_path / "bf16", whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}


def write_coloured(folder: Path, count: int) -> float:
    """Write `count` Samples of 56 x 56 px, each quarter red, blue or bare. Gives a bound for the loss without seeing.

    It is the entropy of the colours; what is lost on boxes comes on top.
    """
    rng = np.random.default_rng(0)
    samples = []
    for index, quarters in enumerate(rng.permutation(np.arange(4 * count) % 3).reshape(count, 4)):
        pixels = np.full((56, 56, 3), 128, dtype=np.uint8)
        regions = []
        for quarter, number in enumerate(quarters):
            if number < 2:
                x, y, name = quarter % 2 * 28, quarter // 2 * 28, list(COLOURS)[number]
                pixels[y : y + 28, x : x + 28] = COLOURS[name]
                regions.append(Region(box_px=(x, y, x + 28, y + 28), label=name))
        picture = Image(path="q.png", data=encode_png(PILImage.fromarray(pixels)), width_px=56, height_px=56)
        samples.append(make_sample(f"q{index}", task="boxes", images=(picture,), regions=tuple(regions)))
    write_samples(samples, folder)
    return 2 * -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)


def test_the_tower_learns_to_see_what_it_is_shown(inputs, tmp_path, monkeypatch):
    """Colours alone: a token knows its place without seeing."""
    monkeypatch.setattr(sights, "place_words", lambda box_px, size_px: frozenset())
    blind = write_coloured(tmp_path / "coloured", 12)
    out = tmp_path / "out"
    out.mkdir()
    trainer = {**TRAINER, "max_steps": 40, "per_device_train_batch_size": 12, "save_steps": 100}

    run_vision(config(trainer=trainer), {**inputs, "phantoms": tmp_path / "coloured"}, out)

    losses = [line["loss"] for line in read_jsonl(out / TRAINING_LOG)]
    assert losses[0] > blind
    assert losses[-1] < 0.8 * blind


@pytest.mark.parametrize("task", ["caption", "choice"])
def test_the_tower_learns_from_answers_in_words(inputs, tmp_path, task):
    samples = []
    for index, colour in enumerate(list(COLOURS) * 6):
        pixels = np.full((56, 56, 3), COLOURS[colour], dtype=np.uint8)
        picture = Image(path="q.png", data=encode_png(PILImage.fromarray(pixels)), width_px=56, height_px=56)
        choices = tuple(COLOURS) if task == "choice" else ()
        samples.append(make_sample(f"q{index}", task=task, images=(picture,), answer=colour, choices=choices))
    write_samples(samples, tmp_path / "coloured")
    out = tmp_path / "out"
    out.mkdir()
    trainer = {**TRAINER, "max_steps": 30, "per_device_train_batch_size": 12, "save_steps": 100}

    run_vision(config(trainer=trainer, tasks={task: 1}), {**inputs, "phantoms": tmp_path / "coloured"}, out)

    losses = [line["loss"] for line in read_jsonl(out / TRAINING_LOG)]
    assert losses[0] > 2 * math.log(2) - 0.1
    assert losses[-1] < math.log(2)


def test_each_picture_of_a_sample_has_its_own_regions(inputs, tmp_path):
    """Two pictures in one Sample teach what they teach in two Samples."""
    upper, lower = (
        Region(box_px=(0, 0, 24, 8), label="upper", image=0),
        Region(box_px=(0, 8, 24, 16), label="lower", image=0),
    )
    pictures = [make_image(seed) for seed in (0, 1)]
    apart = [
        make_sample(f"s{index}", task="boxes", images=(picture,), regions=(region,))
        for index, (picture, region) in enumerate(zip(pictures, (upper, lower), strict=True))
    ]
    together = make_sample(
        "s",
        task="boxes",
        images=tuple(pictures),
        regions=(lower.model_copy(update={"image": 1}), upper),
    )
    for name, samples in (("apart", apart), ("together", [together])):
        write_samples(samples, tmp_path / name)
        (tmp_path / f"{name}_out").mkdir()
        run_vision(config(), {**inputs, "phantoms": tmp_path / name}, tmp_path / f"{name}_out")

    assert same_weights(tmp_path / "apart_out", tmp_path / "together_out")


def test_each_fold_has_its_own_model(inputs, tmp_path):
    boxes = [sample for sample in read_samples(inputs["phantoms"]) if sample.task == "boxes"]
    folds = [
        sample.model_copy(update={"split": f"fold-{index % 2}"}) for index, sample in enumerate(boxes[:6])
    ]
    write_samples(folds, tmp_path / "folds")
    out = tmp_path / "out"
    out.mkdir()

    counts = run_vision(config(), {**inputs, "phantoms": tmp_path / "folds"}, out)

    assert counts == {"folds": {"fold-0": 3, "fold-1": 3}}
    assert {path.name for path in out.iterdir()} == {"fold-0", "fold-1"}
    assert read_card(out / "fold-1").num_train_samples == 3
    assert not same_weights(out / "fold-0", out / "fold-1")


# What is refused


def test_samples_without_a_region_are_refused_by_the_stage(inputs, tmp_path):
    write_samples([make_sample("a", task="boxes", regions=())], tmp_path / "empty")

    with pytest.raises(UserError, match="tower: no training Sample has a box"):
        run_vision(config(), {**inputs, "phantoms": tmp_path / "empty"}, tmp_path)


def test_samples_without_boxes_are_refused_by_the_stage(inputs, tmp_path):
    write_samples([make_sample("a")], tmp_path / "questions")

    with pytest.raises(UserError, match="tower: phantoms hold no training Sample of the tasks asked for"):
        run_vision(config(), {**inputs, "phantoms": tmp_path / "questions"}, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trainable": ["projector"]}, "trainable: a `vision` stage trains"),
        (
            {"trainable": ["vision", "projector", "language"]},
            "trainable: a `vision` stage trains",
        ),
        ({"lora": {"r": 4}}, r"lora\n.*a `vision` stage trains .* whole; remove it"),
        ({"trainer": {"seed": 3}}, "seed is set by the stage"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_the_recipe_is_read(fields, message):
    with pytest.raises(ValidationError, match=message):
        config(**fields)


def test_a_trainer_block_is_checked_before_the_first_stage():
    with pytest.raises(UserError, match=r"tower.trainer.learning_rat: .* did you mean 'learning_rate'"):
        config(trainer={"learning_rat": 1e-3}).check()
