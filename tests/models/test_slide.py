"""A Qwen-VL model reads slides: tickets become tokens of their tile features, alone and among pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file, save_file
from tests.fixtures import FAMILIES, picture
from tests.slide_fixtures import DIM, KIND, slide_image, write_slides

from pathloom.images import load_pixels
from pathloom.models.load import load_model
from pathloom.models.nano import renew_tower
from pathloom.models.slide import (
    SlideEncoder,
    attach_slides,
    give_shelf,
    reads_slides,
    tile_statistics,
)
from pathloom.models.slide_config import SlideReading, SlideTokens
from pathloom.models.slide_runs import along_curve, cells_along_curve, runs
from pathloom.models.slide_ticket import picture_loader
from pathloom.slides.features import NO_SLIDE, Shelf, TileFeatures, read_features, write_features
from pathloom.stage import UserError

TILES = {"one": 40, "two": 7, "three": 333, "none": 0}
POOLS = ("mean", "attention")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slides(tmp_path_factory.mktemp("features"), TILES)


@pytest.fixture
def shelf(stage: Path) -> Shelf:
    return Shelf([stage])


def reading_model(folder: Path, shelf: Shelf, pool: str = "mean", side: int = 2) -> tuple[Any, Any]:
    model, processor = load_model(str(folder))
    tokens = SlideTokens(pool=pool, side=side)
    attach_slides(model, tokens, shelf.kind, 3, statistics=tile_statistics(shelf, TILES))
    give_shelf(model, shelf)
    return model.eval(), processor


def batch_of(processor: Any, pictures: list[PILImage.Image], words: str = "What is it?") -> Any:
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    return processor(
        text=[text] * len(pictures),
        images=[[each] for each in pictures],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


@torch.inference_mode()
def logits(model: Any, processor: Any, pictures: list[PILImage.Image]) -> torch.Tensor:
    """[pictures, vocabulary] after the prompt."""
    return model(**batch_of(processor, pictures)).logits[:, -1]


def shown(model: Any, processor: Any, *slides: str) -> list[PILImage.Image]:
    load = picture_loader(model, processor)
    return [load(slide_image(slide)) for slide in slides]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pool", POOLS)
def test_slides_and_pictures_answer_in_a_batch_as_each_alone_in_any_order(model_folders, shelf, family, pool):
    model, processor = reading_model(model_folders[family], shelf, pool)
    pictures = [*shown(model, processor, "one", "two", "none"), picture(1, 64, 64), picture(2, 96, 48)]

    alone = torch.cat([logits(model, processor, [each]) for each in pictures])
    together = logits(model, processor, pictures)
    order = [3, 0, 4, 2, 1]
    shuffled = logits(model, processor, [pictures[place] for place in order])

    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(shuffled, alone[order], atol=1e-4)
    for first in range(len(pictures)):
        for second in range(first):
            assert not torch.allclose(alone[first], alone[second], atol=1e-3), (first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_seen_as_by_the_model_that_reads_no_slides(model_folders, shelf, family):
    model, processor = reading_model(model_folders[family], shelf)
    plain, _ = load_model(str(model_folders[family]))
    pictures = [picture(1, 64, 64), picture(2, 96, 48)]

    assert torch.equal(logits(model, processor, pictures), logits(plain.eval(), processor, pictures))
    beside = logits(model, processor, [*pictures, *shown(model, processor, "one")])
    assert torch.allclose(beside[:2], logits(plain, processor, pictures), atol=1e-4)


def test_a_slide_adds_nothing_to_the_deeper_layers_of_qwen3(model_folders, shelf):
    model, processor = reading_model(model_folders["qwen3_vl"], shelf)
    plain, _ = load_model(str(model_folders["qwen3_vl"]))
    seen, slide = picture(1, 64, 64), shown(model, processor, "one")[0]

    with torch.inference_mode():
        towers = [
            each.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
            for each, pictures in ((model, [slide, seen, slide]), (model, [slide]), (plain.eval(), [seen]))
            for batch in [processor.image_processor(images=pictures, return_tensors="pt")]
        ]

    mixed, alone, without = (tower.deepstack_features[0] for tower in towers)
    assert (mixed[:4] == 0).all()
    assert torch.allclose(mixed[4:8], without, atol=1e-5)
    assert (mixed[8:] == 0).all()
    assert alone.shape == (4, without.shape[1])
    assert (alone == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pool", POOLS)
def test_a_saved_model_gives_the_same_logits_to_the_bit(model_folders, shelf, tmp_path, family, pool):
    model, processor = reading_model(model_folders[family], shelf, pool)
    pictures = [*shown(model, processor, "one", "none"), picture(1, 64, 64)]
    before = logits(model, processor, pictures)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    again, processor = load_model(str(tmp_path))
    give_shelf(again, shelf)

    assert torch.equal(logits(again.eval(), processor, pictures), before)
    state, saved = model.state_dict(), again.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in state)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_names_all_other_weights_as_before_and_opens_without_pathloom(
    model_folders, shelf, tmp_path, family
):
    from transformers import AutoModelForImageTextToText

    model, _ = reading_model(model_folders[family], shelf)
    model.save_pretrained(tmp_path)

    names = load_file(tmp_path / "model.safetensors").keys()
    slide = {name for name in names if "visual.slide." in name}
    assert slide
    assert names - slide == load_file(model_folders[family] / "model.safetensors").keys()
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(plain).__module__.startswith("transformers.")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["slide_tokens"]["tiles"] == KIND.model_dump()
    assert config["architectures"] == [type(plain).__name__]


def test_weights_and_config_that_disagree_are_refused(model_folder, shelf, tmp_path):
    model, processor = reading_model(model_folder, shelf)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.endswith("slide.up.weight")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})

    with pytest.raises(UserError, match=r"up\.weight"):
        load_model(str(tmp_path))


def test_a_model_whose_config_says_less_of_its_tiles_is_refused_with_the_cure(model_folder, shelf, tmp_path):
    model, processor = reading_model(model_folder, shelf)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["slide_tokens"]["tiles"]
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(UserError, match=r"slide_tokens.*train it again"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("pool", POOLS)
def test_a_changed_tile_changes_its_own_slides_logits_only(model_folder, shelf, tmp_path, pool):
    model, processor = reading_model(model_folder, shelf, pool)
    pictures = [*shown(model, processor, "one", "three"), picture(1, 64, 64)]
    before = logits(model, processor, pictures)

    changed = write_slides(tmp_path, TILES, change={"three": 100})
    give_shelf(model, Shelf([changed]))
    after = logits(model, processor, pictures)

    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("pool", POOLS)
def test_the_order_of_tiles_in_the_file_says_nothing(pool):
    encoder = SlideEncoder(SlideReading(pool=pool, side=3, tiles=KIND), 8)
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(9), np.arange(5)), -1).reshape(-1, 2).astype(np.int32) * 512
    features = rng.standard_normal((45, DIM)).astype(np.float16)
    order = rng.permutation(45)

    one = encoder([encoder.prepare(TileFeatures(features, places))])
    other = encoder([encoder.prepare(TileFeatures(features[order], places[order] + 70_000))])

    assert one.shape == (1, 9, 8)
    assert torch.allclose(one, other, atol=1e-6)


def grid(rows: int, columns: int) -> np.ndarray:
    """[rows * columns, 2] x, y of tiles row by row."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    return (np.stack([x, y], axis=1) * 448).astype(np.int32)


def test_a_token_shows_the_part_of_the_slide_where_it_stands():
    encoder = SlideEncoder(SlideReading(pool="mean", side=2, tiles=KIND), 8)
    places = grid(8, 8)
    quarter = places[:, 0] // (4 * 448) + 2 * (places[:, 1] // (4 * 448))  # in the order of the tokens
    kinds = np.eye(4, DIM, dtype=np.float16)

    parts = encoder([encoder.prepare(TileFeatures(kinds[quarter], places))])[0]

    for token in range(4):
        pure = encoder([encoder.prepare(TileFeatures(kinds[np.full(64, token)], places))])[0]
        assert torch.allclose(parts[token], pure[token], atol=1e-3)
        assert not torch.allclose(parts[token], parts[token - 1], atol=1e-3)


def test_a_tile_speaks_through_the_token_of_its_run_alone():
    encoder = SlideEncoder(SlideReading(pool="mean", side=4, tiles=KIND), 8)
    features = np.random.default_rng(0).standard_normal((64, DIM)).astype(np.float16)
    before = encoder([encoder.prepare(TileFeatures(features, grid(8, 8)))])[0]
    features[9] += np.arange(DIM, dtype=np.float16)  # the second tile of the second row

    after = encoder([encoder.prepare(TileFeatures(features, grid(8, 8)))])[0]

    assert (before != after).any(dim=1).nonzero().flatten().tolist() == [0]


def test_attention_weighs_all_tiles_wherever_they_lie():
    encoder = SlideEncoder(SlideReading(pool="attention", side=2, tiles=KIND), 8)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((64, DIM)).astype(np.float16)
    moved = rng.permutation(64)

    here, there = (
        encoder([encoder.prepare(TileFeatures(features, places))])[0]
        for places in (grid(8, 8), grid(8, 8)[moved])
    )
    features[9] += np.arange(DIM, dtype=np.float16)
    changed = encoder([encoder.prepare(TileFeatures(features, grid(8, 8)))])[0]

    assert torch.equal(here, there)
    assert (here != changed).any(dim=1).all()
    assert len(torch.unique(here, dim=0)) == 4  # each token asks something else


def test_every_part_of_the_encoder_learns(model_folder, shelf):
    model, processor = reading_model(model_folder, shelf, "attention")
    pictures = shown(model, processor, "one", "none")

    model(**batch_of(processor, pictures)).logits[:, -1].square().sum().backward()

    silent = [
        name
        for name, parameter in model.model.visual.slide.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert not silent


def test_a_batch_without_slides_gives_their_encoder_no_push(model_folder, shelf):
    model, processor = reading_model(model_folder, shelf)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "visual.slide." in name

    model.train()
    model(**batch_of(processor, [picture(1, 64, 64)])).logits[:, -1].square().sum().backward()

    assert all((parameter.grad == 0).all() for parameter in model.model.visual.slide.parameters())


def test_tiles_that_are_all_alike_make_finite_tokens(model_folder, tmp_path):
    same = write_slides(tmp_path / "same", {"one": 40})
    path = same / "features" / "one.safetensors"
    tiles = read_features(path)
    write_features(path, TileFeatures(np.ones_like(tiles.features) * np.arange(DIM), tiles.places_l0), "made")
    shelf = Shelf([same])
    encoder = SlideEncoder(SlideReading(pool="attention", side=2, tiles=KIND), 8)
    encoder.centre, encoder.spread = tile_statistics(shelf, ["one"])

    other = TileFeatures(-100 * tiles.features, tiles.places_l0)

    assert torch.isfinite(encoder([encoder.prepare(other)])).all()


def test_tokens_begin_around_the_embeddings(model_folder, shelf):
    model, _ = reading_model(model_folder, shelf)
    embeddings = model.get_input_embeddings().weight.detach()
    mean = embeddings.mean(dim=0)
    distance = (embeddings - mean).norm(dim=1).mean()
    tower = model.model.visual
    with torch.no_grad():
        tokens = tower.slide([tower.slide.prepare(shelf.read("three"))])[0]

    assert (tokens.mean(dim=0) - mean).norm() < distance
    assert 0.2 * distance < (tokens - mean).norm(dim=1).mean() < 2 * distance


@pytest.mark.parametrize("family", FAMILIES)
def test_slides_are_generated_from_with_a_cache_as_without(model_folders, shelf, family):
    model, processor = reading_model(model_folders[family], shelf)
    batch = batch_of(processor, [*shown(model, processor, "one"), picture(1, 64, 64)])

    cached, whole = (
        model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=use)
        for use in (True, False)
    )

    assert torch.equal(cached, whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_reads_slides_about_as_well_as_pictures(model_folders, shelf, family):
    model, processor = reading_model(model_folders[family], shelf)
    pictures = [*shown(model, processor, "one", "two"), picture(1, 64, 64)]
    exact = logits(model, processor, pictures)

    rounded = logits(model.to(torch.bfloat16), processor, pictures).float()

    one, two, plain = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert max(one, two) < 2 * plain
    assert plain < 0.15, "random weights of a few layers round no worse"


def test_a_model_without_a_shelf_or_without_the_slide_says_so(model_folder, shelf, tmp_path):
    model, processor = reading_model(model_folder, shelf)
    ticket = shown(model, processor, "one", "elsewhere")

    with pytest.raises(UserError, match="no features of that slide"):
        logits(model, processor, ticket[1:])
    model.model.visual.open_shelf = None
    with pytest.raises(UserError, match="embed_slides"):
        logits(model, processor, ticket[:1])


@pytest.mark.parametrize(
    ("changed", "said"), [({"encoder": "another (weights 000)"}, "another"), ({"mpp": 0.25}, "0.25 um")]
)
def test_a_shelf_of_other_tiles_is_refused(model_folder, shelf, tmp_path, changed, said):
    model, _ = reading_model(model_folder, shelf)
    other = write_slides(tmp_path, TILES, **changed)

    with pytest.raises(UserError, match=said):
        give_shelf(model, Shelf([other]))


def test_a_model_that_reads_no_slides_refuses_them(model_folder, shelf):
    model, processor = load_model(str(model_folder))

    assert not reads_slides(model)
    with pytest.raises(UserError, match="slide_tokens"):
        give_shelf(model, shelf)
    with pytest.raises(UserError, match="reads none"):
        picture_loader(model, processor)(slide_image("one"))
    with pytest.raises(UserError, match="whole slide"):
        load_pixels(slide_image("one"))


def test_a_model_learns_to_read_slides_once(model_folder, shelf):
    model, _ = reading_model(model_folder, shelf)

    with pytest.raises(UserError, match="already"):
        attach_slides(model, SlideTokens(), KIND, 0)


def test_the_slide_without_tiles_stands_for_no_slide(model_folder, shelf):
    model, processor = reading_model(model_folder, shelf)
    pictures = shown(model, processor, NO_SLIDE, "none", "one")

    found = logits(model, processor, pictures)

    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert not torch.allclose(found[0], found[2], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tower_begun_anew_reads_slides_as_before(model_folders, shelf, family):
    model, processor = reading_model(model_folders[family], shelf)
    ticket = shown(model, processor, "one")
    before = logits(model, processor, ticket)

    renew_tower(model, 1)
    give_shelf(model, shelf)

    assert torch.equal(logits(model.eval(), processor, ticket), before)


def test_a_curve_visits_neighbours_and_every_place_once():
    cells = cells_along_curve(8)
    rows, columns = np.divmod(cells, 8)

    assert sorted(cells) == list(range(64))
    assert (np.abs(np.diff(rows)) + np.abs(np.diff(columns)) == 1).all()
    assert len(along_curve(np.zeros((0, 2), np.int32))) == 0
    assert along_curve(np.array([[5, 5]])).tolist() == [0]


@pytest.mark.parametrize("num_tiles", [1, 3, 4, 5, 16, 17, 4099])
def test_runs_cover_all_tiles_and_none_is_empty(num_tiles):
    first, end = runs(num_tiles, 4).T

    assert (end > first).all()
    assert set(range(num_tiles)) == {tile for a, b in zip(first, end, strict=True) for tile in range(a, b)}
    pooled = torch.nn.functional.adaptive_avg_pool1d(torch.arange(num_tiles).float()[None, None], 4)[0, 0]
    assert torch.allclose(
        pooled, torch.tensor([np.arange(a, b).mean() for a, b in zip(first, end, strict=True)]).float()
    )


def test_statistics_are_those_of_the_slides_named(shelf):
    centre, spread = tile_statistics(shelf, ["one", "three"])
    other, _ = tile_statistics(shelf, ["two"])

    assert centre.shape == spread.shape == (DIM,)
    assert (spread > 0).all()
    assert not torch.allclose(centre, other)
    assert torch.equal(tile_statistics(shelf, ["none"])[1], torch.ones(DIM))
