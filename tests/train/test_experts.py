"""Stage `experts`: begun as what two stages have learnt, of regions and of slides, trained or only put together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.fixtures import FAMILIES, make_sample
from tests.slide_fixtures import slide_image, write_slides

from pathloom.card import read_card
from pathloom.evaluate.generative import Request, _encode
from pathloom.models.experts import gates_of, layers_with_experts, mixture_of, routed
from pathloom.models.experts_config import Route
from pathloom.models.load import load_model
from pathloom.models.slide import give_shelf
from pathloom.schema import Origin, Sample
from pathloom.slides.features import Shelf
from pathloom.stage import UserError, read_jsonl
from pathloom.store import read_samples, write_samples
from pathloom.train import experts as stage
from pathloom.train.config import LoraSettings, ReinforceConfig, SftConfig
from pathloom.train.experts import RoutedRows, plan, run_experts
from pathloom.train.experts_config import ExpertsConfig
from pathloom.train.loop import CHECKPOINTS, TRAINING_LOG, FollowEpoch, ResumesWholeModels, load_trainable
from pathloom.train.sft import run_sft

SLIDES = {f"slide{number}": 20 + 9 * number for number in range(6)}
TRAINER = {
    "max_steps": 2,
    "save_steps": 1,
    "logging_steps": 1,
    "per_device_train_batch_size": 8,  # two steps an epoch
    "learning_rate": 1e-2,
}
RANK = 4
PUT_TOGETHER = {**TRAINER, "max_steps": 0}


def sft(name: str, **fields: Any) -> SftConfig:
    given = {
        "name": name,
        "kind": "sft",
        "samples": (name,),
        "model": {"stage": "untrained"},
        "style": "direct",
        "lora": {"r": RANK, "alpha": 8},
        "trainer": TRAINER,
    }
    return SftConfig.model_validate({**given, **fields})


def config(**fields: Any) -> ExpertsConfig:
    given = {
        "name": "mixture",
        "kind": "experts",
        "samples": ("regions", "slides"),
        "slides": ("seen",),
        "model": {"stage": "untrained"},
        "start_from": ("region_sft", "slide_sft"),
        "style": "direct",
        "r": RANK,
        "alpha": 8,
        "trainer": TRAINER,
    }
    return ExpertsConfig.model_validate({**given, **fields})


def slide_sample(slide: str, **fields: Any) -> Sample:
    origin = Origin(source="slides", source_id=slide, licence="CC0-1.0", group=slide)
    return make_sample(f"about {slide}", images=(slide_image(slide),), origin=origin, **fields)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("questions")
    slides = [
        slide_sample(name, answer="yes" if number % 2 else "no", split="test" if number == 5 else "train")
        for number, name in enumerate(SLIDES)
    ]
    regions = [one for one in read_samples(phantom_folder) if one.task in ("yes_no", "choice")]
    for name, samples in {"slides": slides, "regions": regions}.items():
        (root / name).mkdir()
        write_samples(samples, root / name)
    return {
        "slides": root / "slides",
        "regions": root / "regions",
        "seen": write_slides(root / "seen", SLIDES),
    }


@pytest.fixture(scope="module")
def stages(
    questions: dict[str, Path], model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Path]]:
    """Family -> stage -> folder: the base, and what SFT on regions and on slides makes of it."""
    made = {}
    for family in FAMILIES:
        folders = {**questions, "untrained": model_folders[family]}
        for name, samples, fields in (
            ("region_sft", "regions", {"trainable": ["projector"]}),
            (
                "slide_sft",
                "slides",
                {"trainable": ["slide"], "slides": ("seen",), "slide_tokens": {"side": 2}},
            ),
        ):
            folders[name] = tmp_path_factory.mktemp(f"{family}_{name}")
            run_sft(sft(name, samples=(samples,), **fields), {**questions, **folders}, folders[name])
        made[family] = folders
    return made


@pytest.fixture
def inputs(stages: dict[str, dict[str, Path]]) -> dict[str, Path]:
    return stages["qwen2_5_vl"]


@pytest.fixture(scope="module")
def together(
    stages: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """The two stages put together, by routing and family: the folder and its counts."""
    made: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {}

    def put(routing: str, family: str = "qwen2_5_vl") -> tuple[Path, dict[str, Any]]:
        if (routing, family) not in made:
            out = tmp_path_factory.mktemp(routing)
            counts = run_experts(config(routing=routing, trainer=PUT_TOGETHER), stages[family], out)
            made[routing, family] = out, counts
        return made[routing, family]

    return put


@pytest.fixture(scope="module")
def trained(
    stages: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run of soft routing: its folder and its counts."""
    out = tmp_path_factory.mktemp("trained")
    return out, run_experts(config(), stages["qwen2_5_vl"], out)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@torch.inference_mode()
def logits(
    folder: Path, inputs: dict[str, Path], samples: list[Sample], *, routes: Any = None
) -> torch.Tensor:
    """Of the last token of each question, as an evaluation asks it."""
    from pathloom.benchmarks import find_benchmark

    model, processor = load_model(str(folder))
    if any(sample.scale == "slide" for sample in samples):
        give_shelf(model, Shelf([inputs["seen"]]))
    requests = [Request(find_benchmark("phantom_presence"), "none", one, one) for one in samples]
    batch = _encode(model.eval(), processor, requests, "direct")
    with routed(model, routes or [request.route for request in requests]):
        return model(**batch).logits[:, -1]


def some(inputs: dict[str, Path], name: str) -> list[Sample]:
    return [sample for sample in read_samples(inputs[name]) if sample.task == "yes_no"][:2]


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_put_together_by_hard_routing_answer_each_as_before(stages, together, family):
    inputs = stages[family]

    folder, counts = together("hard", family)

    assert counts["steps"] == 0
    assert counts["share_kept"] == pytest.approx({"region_sft": 1, "slide_sft": 1}, abs=1e-5)
    for name in ("region", "slide"):
        asked = some(inputs, f"{name}s")
        found = logits(folder, inputs, asked)
        assert torch.allclose(found, logits(inputs[f"{name}_sft"], inputs, asked), atol=1e-3)
        other = [Route("slide" if name == "region" else "region", "yes_no")] * len(asked)
        assert not torch.allclose(found, logits(folder, inputs, asked, routes=other), atol=1e-2)


def test_both_scales_in_one_batch_are_answered_as_each_alone(inputs, together):
    folder, _ = together("hard")
    region, slide = some(inputs, "regions")[:1], some(inputs, "slides")[:1]

    both = logits(folder, inputs, [*region, *slide])

    alone = torch.cat([logits(folder, inputs, region), logits(folder, inputs, slide)])
    assert torch.allclose(both, alone, atol=1e-4)


def test_parts_that_one_stage_has_changed_are_taken_over(inputs, together):
    found, base = weights(together("hard")[0]), weights(inputs["untrained"])
    region, slide = weights(inputs["region_sft"]), weights(inputs["slide_sft"])
    for name, tensor in found.items():
        if ".experts." in name:
            continue
        owner = region if "merger" in name else slide if ".slide." in name else base
        assert torch.equal(tensor, owner[name]), name
    assert any("merger" in name and not torch.equal(tensor, base[name]) for name, tensor in found.items())


def test_a_part_that_two_stages_have_changed_is_refused(inputs, tmp_path):
    (tmp_path / "again").mkdir()
    again = sft("again", samples=("regions",), trainable=["projector"], seed=1)
    run_sft(again, inputs, tmp_path / "again")
    both = config(start_from=("region_sft", "again"), samples=("regions",), slides=())

    with pytest.raises(UserError, match=r"region_sft and again have both changed .*of the part projector"):
        run_experts(both, {**inputs, "again": tmp_path / "again"}, tmp_path)


def test_a_stage_that_did_not_begin_at_the_base_is_refused(stages, tmp_path):
    other_family = {**stages["qwen2_5_vl"], "region_sft": stages["qwen3_vl"]["region_sft"]}

    with pytest.raises(UserError, match="region_sft did not begin at `model`"):
        run_experts(config(), other_family, tmp_path)


def test_a_rank_too_small_is_told(inputs, tmp_path, capsys):
    counts = run_experts(config(r=1, alpha=2, trainer=PUT_TOGETHER), inputs, tmp_path)

    assert all(0.2 < share < 0.95 for share in counts["share_kept"].values())
    assert "rank 1 keeps" in capsys.readouterr().out


def test_a_stage_that_was_shown_smaller_pictures_is_told(inputs, tmp_path):
    smaller = tmp_path / "smaller"
    smaller.mkdir()
    run_sft(sft("smaller", samples=("regions",), max_pixels=12544), inputs, smaller)
    given = {"start_from": ("smaller", "slide_sft"), "trainer": PUT_TOGETHER}

    for number, max_pixels in enumerate((None, 12544)):
        out = tmp_path / str(number)
        out.mkdir()
        counts = run_experts(config(**given, max_pixels=max_pixels), {**inputs, "smaller": smaller}, out)
        told = counts.get("warnings", [])
        assert bool(told) == (max_pixels is None)
    assert read_card(tmp_path / "0").max_pixels != 12544


def test_a_gate_begins_with_the_expert_of_the_scale(inputs, tmp_path):
    run_experts(config(trainer=PUT_TOGETHER, gate_start=0.8), inputs, tmp_path)
    model, _ = load_model(str(tmp_path))

    for route, first in ((Route("region", "yes_no"), 0.8), (Route("slide", "choice"), 0.2), (Route(), 0.5)):
        assert torch.allclose(gates_of(model, route)[:, 0], torch.tensor(first), atol=1e-6)


def test_one_lora_for_all_begins_as_the_average_of_the_stages(inputs, together):
    model, _ = load_model(str(together("shared")[0]))
    base, *others = (
        load_model(str(inputs[name]))[0].state_dict() for name in ("untrained", "region_sft", "slide_sft")
    )
    mixture = mixture_of(model)
    assert mixture is not None
    assert (mixture.num_experts, mixture.r, mixture.alpha / mixture.r) == (1, 2 * RANK, 8 / RANK)
    for name, layer in layers_with_experts(model).items():
        average = sum(other[f"{name}.weight"] - base[f"{name}.weight"] for other in others) / 2
        assert torch.allclose(mixture.scaling * layer.up[0].T @ layer.down[0], average, atol=1e-5)


def test_all_three_have_as_many_adapter_weights(together):
    counts = {
        routing: together(routing)[1]["modules"]["experts"]["parameters"]
        for routing in ("hard", "soft", "shared")
    }

    num_gates, of_gate = 28, 2 * (3 + 3)
    assert counts["hard"] == counts["shared"] == counts["soft"] - num_gates * of_gate


def test_training_moves_experts_and_gates_and_nothing_else(trained, together):
    out, counts = trained

    before, after = weights(together("soft")[0]), weights(out)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    assert all(".experts." in name for name in moved)
    assert {name.partition(".experts.")[2] for name in moved} == {"down", "up", "gate.scale", "gate.task"}
    of_experts = counts["modules"]["experts"]
    assert of_experts["trainable"] == of_experts["parameters"] > 0
    assert not any(of["trainable"] for name, of in counts["modules"].items() if name != "experts")
    assert read_card(out).tasks == ("choice", "yes_no")
    assert not any(
        path.suffix in (".bin", ".pt", ".pth") or path.name == CHECKPOINTS for path in out.rglob("*")
    )
    log = read_jsonl(out / TRAINING_LOG)
    assert [line["step"] for line in log] == [1, 2]
    assert all(line["loss"] > 0 and line["balance"] >= 0.9 for line in log)


def test_named_parts_learn_beside_the_experts(inputs, tmp_path):
    counts = run_experts(config(trainable=["slide"], trainer={**TRAINER, "max_steps": 1}), inputs, tmp_path)

    learning = {name for name, of in counts["modules"].items() if of["trainable"]}
    assert learning == {"slide", "experts"}
    assert any(
        ".slide." in name and not torch.equal(tensor, weights(inputs["slide_sft"])[name])
        for name, tensor in weights(tmp_path).items()
    )


class Stopped(BaseException):
    """Stands for a kill: nothing in the code catches it."""


@pytest.mark.parametrize("stopped_after", [1, 2], ids=["in the middle", "after the last step"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    trained, inputs, tmp_path, monkeypatch, stopped_after
):
    def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == stopped_after:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(FollowEpoch, "on_save", on_save)
        with pytest.raises(Stopped):
            run_experts(config(), inputs, tmp_path)
    assert (tmp_path / CHECKPOINTS / f"checkpoint-{stopped_after}").is_dir()

    counts = run_experts(config(), inputs, tmp_path)

    assert counts == trained[1]
    assert same_weights(tmp_path, trained[0])
    assert read_jsonl(tmp_path / TRAINING_LOG) == read_jsonl(trained[0] / TRAINING_LOG)


def test_each_pass_is_told_the_rows_routes_and_the_gate_learns_faster(inputs, tmp_path, monkeypatch):
    told: list[tuple[Route, ...]] = []
    trainers: list[Any] = []

    def noted(model: Any, routes: Any) -> Any:
        told.append(tuple(routes))
        return routed(model, routes)

    class Recorded(stage.ExpertsTrainer):
        def train(self, *arguments: Any, **options: Any) -> Any:
            trainers.append(self)
            return super().train(*arguments, **options)

    monkeypatch.setattr(stage, "routed", noted)
    monkeypatch.setattr(stage, "ExpertsTrainer", Recorded)

    run_experts(
        config(unknown_share=0.0, gate_speed=5, trainer={**TRAINER, "num_train_epochs": 1, "max_steps": -1}),
        inputs,
        tmp_path,
    )

    training = [
        one for name in ("regions", "slides") for one in read_samples(inputs[name]) if one.split == "train"
    ]
    assert sorted(route for batch in told for route in batch) == sorted(
        Route(one.scale, one.task) for one in training
    )
    assert any({route.scale for route in batch} == {"region", "slide"} for batch in told), "both in one batch"
    names = {id(parameter): name for name, parameter in trainers[0].model.named_parameters()}
    groups = trainers[0].optimizer.param_groups
    assert {".gate." in names[id(each)] for each in groups[-1]["params"]} == {True}
    assert not any(".gate." in names[id(each)] for group in groups[:-1] for each in group["params"])
    assert groups[-1]["initial_lr"] == pytest.approx(5 * groups[0]["initial_lr"])


def test_activations_computed_again_are_those_of_the_same_rows(trained, inputs, tmp_path):
    run_experts(config(trainer={**TRAINER, "activation_checkpointing": True}), inputs, tmp_path)

    assert same_weights(tmp_path, trained[0])


def test_some_rows_are_learnt_without_their_task_and_some_without_their_scale_too():
    samples = [make_sample(str(index)) for index in range(2000)]
    entry = config(unknown_share=0.2)
    rows = RoutedRows(entry, plan(entry, samples), samples, load=lambda image: pytest.fail("nothing is read"))

    drawn = [rows.route(index) for index in range(len(samples))]

    shares = {route: drawn.count(route) / len(drawn) for route in ((1, 1), (1, 0), (0, 0))}
    assert shares == pytest.approx({(1, 1): 0.8, (1, 0): 0.1, (0, 0): 0.1}, abs=0.03)
    assert drawn == [rows.route(index) for index in range(len(samples))]
    rows.epoch = 1
    assert drawn != [rows.route(index) for index in range(len(samples))]
    hard = config(routing="hard")
    told = RoutedRows(hard, plan(hard, samples), samples, load=lambda image: pytest.fail("nothing is read"))
    assert {told.route(index) for index in range(200)} == {(1, 1)}


def test_what_learns_in_float32_beside_half_precision_comes_back_unrounded(inputs, tmp_path):
    def beside_half_precision() -> Any:
        model, _ = load_model(str(inputs["untrained"]), dtype="bfloat16")
        model.model.visual.merger.float()
        return model

    trained, (_, processor) = beside_half_precision(), load_model(str(inputs["untrained"]))
    for parameter in trained.model.visual.merger.parameters():
        torch.nn.init.normal_(parameter)
    trained.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    resumed = ResumesWholeModels()
    resumed.is_fsdp_enabled, resumed.model = False, beside_half_precision()

    resumed._load_from_checkpoint(str(tmp_path))

    found = resumed.model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in trained.state_dict().items())


def test_experts_without_stages_begin_as_plain_lora(inputs, tmp_path):
    counts = run_experts(
        config(start_from=(), samples=("regions",), slides=(), trainer=PUT_TOGETHER), inputs, tmp_path
    )

    assert "share_kept" not in counts
    after = weights(tmp_path)
    assert all(not tensor.any() for name, tensor in after.items() if name.endswith(".up"))
    downs = [tensor for name, tensor in after.items() if name.endswith(".down")]
    assert all(not torch.equal(down[0], down[1]) for down in downs)


def test_a_sample_that_no_rule_routes_is_named_before_anything_is_loaded(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "load_model", lambda *arguments, **options: pytest.fail("a model was loaded"))

    with pytest.raises(UserError, match=r"mixture\.routes: no expert for region/yes_no; add the key"):
        run_experts(config(routing="hard", routes={"slide": 0, "choice": 1}), inputs, tmp_path)


@pytest.mark.parametrize("kind", ["sft", "reinforce"])
def test_a_mixture_is_neither_trained_nor_reinforced_further(trained, kind):
    entry: Any = sft("more", samples=("regions",))
    if kind == "reinforce":
        given = {"name": "more", "kind": "reinforce", "samples": ("regions",), "model": {"stage": "mixture"}}
        entry = ReinforceConfig.model_validate(given)

    with pytest.raises(UserError, match="is a mixture of experts, and nothing trains or reinforces one"):
        load_trainable(entry, str(trained[0]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lora": {"r": 4}}, "the experts are the adapters"),
        ({"trainable": ["language"]}, "language cannot learn whole beside experts"),
        ({"num_experts": 1}, "2 stages begin as experts, and num_experts is 1"),
        ({"start_from": ("a", "a")}, "a stage stands there twice"),
        ({"top_k": 3}, "3 of 2 experts cannot be at work"),
        ({"top_k": 1}, "the gate of a single expert is 1 whatever is learnt"),
        ({"routing": "hard", "routes": {"region": 0, "slides": 1}}, r"routes\.slides: a key is a scale"),
        ({"routing": "hard", "routes": {"region/slide": 0, "slide": 1}}, r"routes\.region/slide: a key is"),
        ({"routing": "hard", "routes": {"region": 0, "slide": 2}}, "there are experts 0 to 1"),
        ({"routing": "hard", "routes": {"region": 0, "slide": 0}}, "nothing is ever asked of expert 1"),
        ({"routes": {"region/choice": 0}}, "a gate begins with a scale or a task"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        config(**fields)


def test_an_entry_needs_the_stages_that_its_experts_begin_as():
    assert config().needs() == ("regions", "slides", "seen", "region_sft", "slide_sft", "untrained")
    assert config().target_modules == LoraSettings().target_modules
    assert config(routing="hard").all_routes == {"region": 0, "slide": 1}
    assert config(start_from=()).all_routes == config(routing="shared").all_routes == {}
