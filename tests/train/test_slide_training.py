"""Training on slides: the stages `sft` and `reinforce` with made-up features, whole and beside adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.fixtures import FAMILIES, make_sample
from tests.slide_fixtures import slide_image, write_slides

from pathloom.card import read_card
from pathloom.models.load import load_model
from pathloom.models.slide import attach_slides, give_shelf, reads_slides
from pathloom.models.slide_config import SlideTokens
from pathloom.models.slide_ticket import TicketForm, draw_ticket, picture_loader
from pathloom.schema import Origin, Sample
from pathloom.slides.features import Shelf
from pathloom.stage import UserError
from pathloom.store import read_samples, write_samples
from pathloom.train.config import ReinforceConfig, SftConfig, VisionConfig
from pathloom.train.loop import FollowEpoch, load_trainable
from pathloom.train.parts import count_trainable, freeze_the_rest, lora_config, module_of
from pathloom.train.reinforce import build_trainer, run_reinforce
from pathloom.train.rows import Rows
from pathloom.train.sft import run_sft

SLIDES = {f"slide{number}": 20 + 9 * number for number in range(6)}
TRAINER = {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
TOKENS = {"side": 2, "pool": "mean"}


def slide_sample(slide: str, **fields: Any) -> Sample:
    origin = Origin(source="slides", source_id=slide, licence="CC0-1.0", group=slide)
    return make_sample(f"about {slide}", images=(slide_image(slide),), origin=origin, **fields)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> dict[str, Path]:
    """Stage -> folder: questions about slides, the slides' features, questions about both scales."""
    root = tmp_path_factory.mktemp("slides")
    slides = [
        slide_sample(name, answer="yes" if number % 2 else "no", split="test" if number == 5 else "train")
        for number, name in enumerate(SLIDES)
    ]
    regions = [sample for sample in read_samples(phantom_folder) if sample.task == "yes_no"]
    for name, samples in {"slides": slides, "both": [*slides, *regions]}.items():
        (root / name).mkdir()
        write_samples(samples, root / name)
    return {
        "slides": root / "slides",
        "both": root / "both",
        "seen": write_slides(root / "seen", SLIDES, missing={"lost": "unreadable"}),
    }


@pytest.fixture
def inputs(places: dict[str, Path], model_folder: Path) -> dict[str, Path]:
    return {**places, "untrained": model_folder}


def config(**fields: Any) -> SftConfig:
    given = {
        "name": "sft",
        "kind": "sft",
        "samples": ("slides",),
        "slides": ("seen",),
        "slide_tokens": TOKENS,
        "model": {"stage": "untrained"},
        "style": "direct",
        "trainer": TRAINER,
    }
    return SftConfig.model_validate({**given, **fields})


def changed(before: Path, after: Path) -> set[str]:
    """Names of the weights that differ, those of a new part among them."""
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    return {name for name in new if name not in old or not torch.equal(new[name], old[name])}


def parts(names: set[str]) -> set[str]:
    return {
        "slide"
        if "visual.slide." in name
        else "projector"
        if "merger" in name
        else "vision"
        if "visual." in name
        else "language"
        for name in names
    }


class Stopped(BaseException):
    """Stands for a kill: nothing in the code catches it."""


def stop_after_save(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise Stopped

    monkeypatch.setattr(FollowEpoch, "on_save", on_save)


LORA_AND_SLIDE = {"lora": {"r": 4}, "trainable": ["slide"]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("fields", "learnt"),
    [
        pytest.param({"trainable": ["slide"]}, {"slide"}, marks=pytest.mark.slow),
        pytest.param(LORA_AND_SLIDE, {"slide", "language"}, marks=pytest.mark.slow),
        ({"lora": {"r": 4}, "trainable": ["projector", "slide"], "samples": ("both",)}, None),
    ],
    ids=["slide alone", "adapters and slide", "adapters and both projectors"],
)
def test_only_what_is_named_learns_and_the_folder_brings_it_back(
    inputs, places, model_folders, tmp_path, family, fields, learnt
):
    folder = model_folders[family]

    counts = run_sft(config(**fields), {**inputs, "untrained": folder}, tmp_path)

    assert parts(changed(folder, tmp_path)) == (learnt or {"slide", "projector", "language"})
    of_slide = counts["modules"]["slide"]
    assert of_slide["trainable"] == of_slide["parameters"] > 0
    model, _ = load_model(str(tmp_path))
    assert reads_slides(model)
    assert not any("modules_to_save" in name or "original_module" in name for name in model.state_dict())
    give_shelf(model, Shelf([places["seen"]]))
    assert read_card(tmp_path).mpp_range is None or "both" in str(fields)


@pytest.mark.slow
def test_the_slide_encoder_learns_from_its_start(inputs, places, model_folder, tmp_path):
    shelf = Shelf([places["seen"]])
    training = [sample for sample in read_samples(places["slides"]) if sample.split == "train"]
    began, _ = load_trainable(config(**LORA_AND_SLIDE), str(model_folder), shelf, training)
    start = began.model.visual.slide.state_dict()

    run_sft(config(**LORA_AND_SLIDE), inputs, tmp_path)

    end = load_model(str(tmp_path))[0].model.visual.slide.state_dict()
    assert torch.equal(end["centre"], start["centre"])
    assert torch.equal(end["spread"], start["spread"])
    assert not torch.equal(end["up.weight"], start["up.weight"])
    assert (end["up.weight"] - start["up.weight"]).abs().max() < 0.1


@pytest.mark.parametrize(
    "fields",
    [pytest.param({}, marks=pytest.mark.slow), LORA_AND_SLIDE],
    ids=["whole", "adapters and slide"],
)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(inputs, tmp_path, monkeypatch, fields):
    once, twice = tmp_path / "once", tmp_path / "twice"
    once.mkdir()
    twice.mkdir()
    run_sft(config(**fields), inputs, once)
    with monkeypatch.context() as patch:
        stop_after_save(patch, 1)
        with pytest.raises(Stopped):
            run_sft(config(**fields), inputs, twice)

    run_sft(config(**fields), inputs, twice)

    assert changed(once, twice) == set()


@pytest.mark.slow
def test_a_model_that_reads_slides_learns_on_without_slide_tokens(inputs, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    run_sft(config(trainable=["slide"]), inputs, first)

    run_sft(config(slide_tokens=None, trainable=["slide"]), {**inputs, "untrained": first}, second)

    assert parts(changed(first, second)) == {"slide"}
    with pytest.raises(UserError, match="already"):
        run_sft(config(), {**inputs, "untrained": first}, tmp_path)


def test_a_model_that_reads_no_slides_names_the_key(inputs, tmp_path):
    with pytest.raises(UserError, match="slide_tokens"):
        run_sft(config(slide_tokens=None), inputs, tmp_path)
    with pytest.raises(UserError, match=r"sft\.slides"):
        run_sft(config(slide_tokens=None, slides=()), inputs, tmp_path)


def test_what_cannot_be_is_refused_when_the_recipe_is_read():
    with pytest.raises(ValidationError, match="slide_tokens"):
        config(slides=())
    with pytest.raises(ValidationError, match="slides: a `vision`"):
        VisionConfig.model_validate(
            {
                "name": "v",
                "kind": "vision",
                "samples": ("a",),
                "model": {"stage": "m"},
                "slides": ("seen",),
            }
        )


def test_tickets_larger_than_pictures_may_be_are_refused(inputs, tmp_path):
    with pytest.raises(UserError, match="max_pixels"):
        run_sft(config(slide_tokens={"side": 4}), inputs, tmp_path)


def test_samples_of_slides_that_could_not_be_encoded_are_counted_and_left_out(inputs, tmp_path):
    samples = [slide_sample(name) for name in ("lost", *list(SLIDES)[:3])]
    (tmp_path / "some").mkdir()
    write_samples(samples, tmp_path / "some")
    out = tmp_path / "out"
    out.mkdir()

    counts = run_sft(config(samples=("some",)), {**inputs, "some": tmp_path / "some"}, out)

    assert (counts["trained_on"], counts["without_slide_features"]) == (3, 1)


def test_a_slide_that_nobody_encoded_is_an_error(inputs, tmp_path):
    (tmp_path / "some").mkdir()
    write_samples([slide_sample("unknown")], tmp_path / "some")

    with pytest.raises(UserError, match="unknown"):
        run_sft(config(samples=("some",)), {**inputs, "some": tmp_path / "some"}, tmp_path)


def test_a_ticket_is_never_turned():
    sample = slide_sample("one")
    ticket = draw_ticket("one", TicketForm(2, 28))
    rows = Rows([sample] * 8, "direct", augment=True, seed=0, load=lambda image: ticket)

    assert all(rows.row(index)["images"][0] is ticket for index in range(8))


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_that_learn_whole_in_a_model_of_half_precision_do_so_in_single(model_folders, places, family):
    shelf = Shelf([places["seen"]])
    model, processor = load_model(str(model_folders[family]), dtype="bfloat16")
    attach_slides(model, SlideTokens(side=2), shelf.kind, 0)
    give_shelf(model, shelf)
    entry = config(lora={"r": 4}, trainable=["projector", "slide"])

    freeze_the_rest(entry, model)
    model = get_peft_model(model, lora_config(entry, model))
    rows = Rows([slide_sample("slide1"), make_sample()], "direct", augment=False, seed=0)
    rows.load = picture_loader(model, processor)
    requests = [rows.row(index) for index in range(2)]
    batch = processor(
        text=[
            processor.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
            for row in requests
        ],
        images=[row["images"] for row in requests],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )

    single = {name for name, each in model.named_parameters() if each.dtype == torch.float32}
    assert {module_of(name) for name in single if "lora_" not in name} == {"projector", "slide"}
    for name, of in count_trainable(model).items():
        assert bool(of["trainable"]) == (name in ("language", "projector", "slide")), name
    logits = model(**batch).logits  # without autocast, as in generation
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(**batch).logits - logits).norm() < 0.05 * logits.norm()
    logits[:, -1].float().square().sum().backward()


RL = {
    "name": "rl",
    "kind": "reinforce",
    "samples": ("both",),
    "slides": ("seen",),
    "slide_tokens": TOKENS,
    "model": {"stage": "untrained"},
    "tasks": {"yes_no": 1},
    "group_size": 4,
    "max_new_tokens": 8,
    "trainer": {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{"algorithm": "dapo", **LORA_AND_SLIDE}, {"algorithm": "grpo"}],
    ids=["dapo with adapters", "grpo whole"],
)
def test_slides_and_regions_are_reinforced_in_one_run(inputs, tmp_path, fields):
    counts = run_reinforce(
        ReinforceConfig.model_validate({**RL, "max_rounds": 2, **fields}), inputs, tmp_path
    )

    assert counts["steps"] == 2
    assert reads_slides(load_model(str(tmp_path))[0])


@pytest.mark.parametrize("fields", [{}, LORA_AND_SLIDE], ids=["whole", "adapters and slide"])
def test_the_reference_reads_slides_as_the_policy_did_at_first(places, model_folder, tmp_path, fields):
    stage = ReinforceConfig.model_validate({**RL, "algorithm": "grpo", **fields})
    training = [sample for sample in read_samples(places["slides"]) if sample.split == "train"]
    trainer = build_trainer(stage, training, str(model_folder), tmp_path, Shelf([places["seen"]]))
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer._roll_out(2)[0][0].tensors

    assert torch.allclose(
        batch["ref_per_token_logps"],
        trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]])[None],
            torch.ones(1, len(batch["prompt_ids"]) + len(batch["completion_ids"]), dtype=torch.long),
            len(batch["completion_ids"]),
            pixel_values=batch["pixel_values"],
            image_grid_thw=batch["image_grid_thw"],
            mm_token_type_ids=torch.cat(
                [batch["mm_token_type_ids"], torch.zeros_like(batch["completion_ids"])]
            )[None],
            num_images=[1],
        )[0][0],
        atol=1e-4,
    )
