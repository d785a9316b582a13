import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.fixtures import FAMILIES, make_sample, noting

from pathloom.card import read_card
from pathloom.models.load import load_model
from pathloom.schema import Origin, Sample
from pathloom.stage import UserError, read_jsonl
from pathloom.store import read_samples, write_samples
from pathloom.train import loop, sft
from pathloom.train.config import PretrainConfig, SftConfig
from pathloom.train.loop import CHECKPOINTS, TRAINING_LOG, FollowEpoch, last_whole_checkpoint
from pathloom.train.parts import count_trainable
from pathloom.train.rows import LeakError, Rows
from pathloom.train.sft import run_sft

STEPS = 4
TRAINER = {
    "max_steps": STEPS,
    "save_steps": 1,
    "logging_steps": 1,
    "per_device_train_batch_size": 5,
    "learning_rate": 1e-3,
}


def config(**fields: Any) -> SftConfig:
    given = {
        "name": "sft",
        "kind": "sft",
        "samples": ("phantoms",),
        "model": {"stage": "untrained"},
        "trainer": TRAINER,
    }
    return SftConfig.model_validate({**given, **fields})


class Stopped(BaseException):
    """Stands for a kill: nothing in the code catches it."""


@pytest.fixture
def inputs(phantom_folder: Path, model_folder: Path) -> dict[str, Path]:
    return {"phantoms": phantom_folder, "untrained": model_folder}


@pytest.fixture(scope="module")
def trained(
    phantom_folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """An uninterrupted run: its folder and its counts."""
    out = tmp_path_factory.mktemp("trained")
    return out, run_sft(config(augment=True), {"phantoms": phantom_folder, "untrained": model_folder}, out)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def stop_after_save(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise Stopped

    monkeypatch.setattr(FollowEpoch, "on_save", on_save)


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The optimisation steps that are done from now on."""
    steps: list[int] = []

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append(state.global_step)

    monkeypatch.setattr(FollowEpoch, "on_step_end", on_step_end)
    return steps


def test_training_changes_the_weights_and_leaves_a_model_folder(trained, model_folder):
    out, counts = trained

    assert (counts["trained_on"], counts["steps"]) == (20, STEPS)
    assert all(of["trainable"] == of["parameters"] > 0 for of in counts["modules"].values())
    assert not same_weights(out, model_folder)
    model, processor = load_model(str(out))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert processor.chat_template == load_model(str(model_folder))[1].chat_template
    log = read_jsonl(out / TRAINING_LOG)
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    assert all(line["loss"] > 0 for line in log)


def test_a_model_folder_holds_no_pickle_and_no_checkpoint(trained):
    out, _ = trained
    left = [path.relative_to(out).as_posix() for path in out.rglob("*")]

    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")) for name in left)
    assert not any(name.startswith(CHECKPOINTS) for name in left)


def test_the_card_says_what_the_model_saw(trained):
    card = read_card(trained[0])

    assert card.tasks == ("boxes", "caption", "choice", "count", "yes_no")
    assert card.templates["yes_no"] == ("choose", "reply", "answer_first", "which")
    assert card.trained_on == (
        "phantom_caption",
        "phantom_diagnosis",
        "phantom_mitoses",
        "phantom_presence",
        "phantom_structures",
    )
    assert (card.num_train_samples, card.base, card.style) == (20, "untrained", "cot")
    assert card.num_parameters == sum(
        parameter.numel() for parameter in load_model(str(trained[0]))[0].parameters()
    )
    json.loads(card.model_dump_json())


@pytest.mark.parametrize("stopped_after", [2, STEPS], ids=["in the middle", "after the last step"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    trained, inputs, tmp_path, monkeypatch, stopped_after
):
    with monkeypatch.context() as patch:
        stop_after_save(patch, stopped_after)
        with pytest.raises(Stopped):
            run_sft(config(augment=True), inputs, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    steps = count_steps(monkeypatch)

    counts = run_sft(config(augment=True), inputs, tmp_path)

    assert steps == list(range(stopped_after + 1, STEPS + 1))
    assert counts == trained[1]
    assert same_weights(tmp_path, trained[0])
    assert [line["loss"] for line in read_jsonl(tmp_path / TRAINING_LOG)] == [
        line["loss"] for line in read_jsonl(trained[0] / TRAINING_LOG)
    ]


@pytest.mark.parametrize("damage", ["without its state", "with half a state"])
def test_a_half_written_newest_checkpoint_is_passed_over(trained, inputs, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:
        stop_after_save(patch, 3)
        with pytest.raises(Stopped):
            run_sft(config(augment=True), inputs, tmp_path)
    newest = tmp_path / CHECKPOINTS / "checkpoint-3"
    state = newest / "trainer_state.json"
    if damage == "without its state":
        state.unlink()
        (newest / "optimizer.pt").unlink()
    else:
        state.write_text(state.read_text()[:100])
    steps = count_steps(monkeypatch)

    run_sft(config(augment=True), inputs, tmp_path)

    assert steps == [3, 4]
    assert same_weights(tmp_path, trained[0])


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    for step in (9, 100, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")

    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    shutil.rmtree(tmp_path / "checkpoint-100")
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-20")


def test_lora_is_merged_and_touches_the_language_tower_only(inputs, model_folder, tmp_path):
    trainer = {**TRAINER, "max_steps": 2}
    run_sft(config(lora={"r": 4, "alpha": 8}, trainer=trainer), inputs, tmp_path)

    before, after = weights(model_folder), weights(tmp_path)
    assert before.keys() == after.keys(), "no adapter is left beside the weights"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("language_model" in name or name.startswith("model.layers") for name in changed)
    assert not any("visual" in name for name in changed)
    assert list(tmp_path.glob("adapter*")) == []
    assert not any(path.suffix in (".bin", ".pt", ".pth") for path in tmp_path.rglob("*"))
    load_model(str(tmp_path))


def test_a_resumed_lora_run_ends_with_the_weights_of_an_uninterrupted_one(inputs, tmp_path, monkeypatch):
    with_lora = config(lora={"r": 4, "dropout": 0.1}, trainer={**TRAINER, "max_steps": 3})
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    run_sft(with_lora, inputs, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after_save(patch, 2)
        with pytest.raises(Stopped):
            run_sft(with_lora, inputs, tmp_path / "resumed")
    steps = count_steps(monkeypatch)

    run_sft(with_lora, inputs, tmp_path / "resumed")

    assert steps == [3]
    assert same_weights(tmp_path / "resumed", tmp_path / "whole")


def test_each_epoch_draws_its_own_templates_and_only_completions_are_learnt(inputs, tmp_path, monkeypatch):
    epochs: list[int] = []
    trainers: list[Any] = []

    class Recorded(sft.SupervisedTrainer):
        def train(self, *arguments: Any, **options: Any) -> Any:
            trainers.append(self)
            epochs.clear()
            return super().train(*arguments, **options)

    monkeypatch.setattr(sft, "SupervisedTrainer", Recorded)
    monkeypatch.setattr(Rows, "row", noting(lambda rows, index: epochs.append(rows.epoch), Rows.row))
    trainer = {"per_device_train_batch_size": 10, "num_train_epochs": 2}

    run_sft(config(trainer=trainer), inputs, tmp_path)

    assert sorted(epochs) == [0] * 20 + [1] * 20
    assert trainers[0].data_collator.completion_only_loss


def test_only_the_tasks_asked_for_are_learnt(inputs, tmp_path):
    trainer = {**TRAINER, "max_steps": 1}

    counts = run_sft(config(tasks={"choice": 3, "yes_no": 1}, trainer=trainer), inputs, tmp_path)

    assert counts["trained_on"] == 10
    assert read_card(tmp_path).tasks == ("choice", "yes_no")


def test_a_task_without_training_samples_is_named(inputs, tmp_path):
    with pytest.raises(UserError, match="sft: phantoms hold no training Sample"):
        run_sft(config(tasks={"short_answer": 1}), inputs, tmp_path)


def test_one_task_of_a_mixture_without_training_samples_is_named(inputs, tmp_path):
    with pytest.raises(UserError, match=r"tasks\.short_answer"):
        run_sft(config(tasks={"choice": 1, "short_answer": 1}), inputs, tmp_path)


def test_a_group_on_both_sides_stops_training_before_anything_is_loaded(inputs, tmp_path, monkeypatch):
    origin = Origin(source="s", source_id="x", licence="CC0-1.0", group="patient 7")
    samples = [make_sample("a", origin=origin), make_sample("b", origin=origin, split="test")]
    write_samples(samples, tmp_path / "mixed")
    monkeypatch.setattr(loop, "load_model", lambda *arguments, **options: pytest.fail("a model was loaded"))

    with pytest.raises(LeakError, match="patient 7"):
        run_sft(config(), {**inputs, "phantoms": tmp_path / "mixed"}, tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"trainable": ["projector", "language"]},
            r"sft learns projector .* M, language .* M; frozen: vision ",
        ),
        ({}, r"sft learns vision .* M, projector .* M, language .* M$"),
        (
            {"lora": {"r": 4}},
            r"sft learns adapters of rank 4 alone; frozen: vision .*, projector .*, language",
        ),
    ],
)
def test_training_says_what_learns_and_what_is_frozen(fields, said, model_folder, capsys):
    loop.load_trainable(config(**fields), str(model_folder))

    assert re.search(said, capsys.readouterr().out.strip())


def in_folds(samples: list[Sample]) -> list[Sample]:
    return [sample.model_copy(update={"split": f"fold-{index % 2}"}) for index, sample in enumerate(samples)]


def test_folds_give_a_model_each_and_a_finished_one_is_kept(inputs, tmp_path, monkeypatch):
    chosen = [sample for sample in read_samples(inputs["phantoms"]) if sample.task == "yes_no"]
    write_samples(in_folds(chosen), tmp_path / "folds")
    inputs = {**inputs, "phantoms": tmp_path / "folds"}
    one_step = config(trainer={**TRAINER, "max_steps": 1})
    train_one = sft.train_one
    held_out = []

    def only_the_first(config: Any, training: Any, base: str, out: Path) -> Any:
        held_out.append(out.name)
        if len(held_out) == 2:
            raise Stopped
        return train_one(config, training, base, out)

    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(sft, "train_one", only_the_first)
    with pytest.raises(Stopped):
        run_sft(one_step, inputs, out)
    assert run_sft(one_step, inputs, out) == {"folds": {"fold-0": 4, "fold-1": 4}}

    assert held_out == ["fold-0", "fold-1", "fold-1"]
    assert read_card(out / "fold-0").num_train_samples == 4
    assert not same_weights(out / "fold-0", out / "fold-1")


def test_only_the_parts_named_learn(inputs, model_folder, tmp_path):
    counts = run_sft(config(trainable=["projector"], trainer={**TRAINER, "max_steps": 1}), inputs, tmp_path)

    before, after = weights(model_folder), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("merger" in name for name in changed)
    assert [of["trainable"] > 0 for of in counts["modules"].values()] == [False, True, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_belongs_to_one_part(model_folders, family):
    model, _ = load_model(str(model_folders[family]))
    counts = count_trainable(model)

    assert sum(of["parameters"] for of in counts.values()) == sum(p.numel() for p in model.parameters())
    assert all(of["parameters"] > 0 for of in counts.values())


def test_beside_adapters_only_projectors_learn_whole():
    with pytest.raises(ValidationError, match="language cannot learn whole beside LoRA"):
        config(lora={"r": 4}, trainable=["language"])


def pretrain(**fields: Any) -> PretrainConfig:
    given = {
        "name": "captions",
        "kind": "pretrain",
        "samples": ("phantoms",),
        "model": {"stage": "untrained"},
    }
    return PretrainConfig.model_validate({**given, "trainer": {**TRAINER, "max_steps": 1}, **fields})


def test_pre_training_learns_captions_and_nothing_else(inputs, tmp_path, monkeypatch):
    trainers: list[Any] = []

    class Recorded(sft.SupervisedTrainer):
        def train(self, *arguments: Any, **options: Any) -> Any:
            trainers.append(self)
            return super().train(*arguments, **options)

    monkeypatch.setattr(sft, "SupervisedTrainer", Recorded)

    counts = run_sft(pretrain(), inputs, tmp_path)

    captions = [s for s in read_samples(inputs["phantoms"]) if s.task == "caption" and s.split == "train"]
    assert counts["trained_on"] == len(captions) > 0
    assert read_card(tmp_path).tasks == ("caption",)
    trainer = trainers[0]
    batch = trainer.data_collator([trainer.train_dataset[0]])
    learnt = batch["input_ids"][batch["labels"] != -100]
    text = trainer.processing_class.tokenizer.decode(learnt, skip_special_tokens=True)
    assert text.strip() == f"<answer>{captions[0].answer}</answer>"


def test_pre_training_refuses_other_tasks():
    with pytest.raises(ValidationError, match="pre-training learns captions"):
        pretrain(tasks={"choice": 1})


def test_the_loss_on_a_cpu_is_the_same_when_only_labels_are_projected(
    inputs, model_folder, monkeypatch, tmp_path
):
    """TRL's private switch still means what train/loop.py takes it for."""
    import trl.trainer.utils as trl_utils

    assert trl_utils._use_triton(torch.device("cpu"))
    model, processor = load_model(str(model_folder), dtype="float32")
    sft.SupervisedTrainer(
        model=model,
        args=sft.sft_arguments(config(), tmp_path),
        train_dataset=Dataset.from_dict({"row": [0]}).with_transform(
            Rows(list(read_samples(inputs["phantoms"]))[:1], "cot", augment=False, seed=0)
        ),
        processing_class=processor,
    )
    ids = torch.randint(20, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(torch.arange(12) < 7, -100)

    projected: list[int] = []
    kernel = trl_utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        trl_utils._ChunkedLogProbFunction,
        "apply",
        noting(lambda hidden, *rest: projected.append(len(hidden)), kernel),
    )

    fused = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    by_hand = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert fused.loss.item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert projected == [10], "two rows of five learnt tokens"


def test_a_recipe_may_set_another_picture_size_for_training_and_all_that_follows(inputs, tmp_path):
    run_sft(config(max_pixels=56 * 56, trainer={**TRAINER, "max_steps": 1}), inputs, tmp_path)

    assert read_card(tmp_path).max_pixels == 56 * 56
    _, processor = load_model(str(tmp_path))
    assert processor.image_processor.size["longest_edge"] == 56 * 56


def test_a_recipe_may_have_small_pictures_enlarged_for_training_and_all_that_follows(inputs, tmp_path):
    sizes = {"min_pixels": 84 * 84, "max_pixels": 112 * 112}
    run_sft(config(**sizes, trainer={**TRAINER, "max_steps": 1}), inputs, tmp_path)

    card = read_card(tmp_path)
    assert (card.min_pixels, card.max_pixels) == (84 * 84, 112 * 112)
    _, processor = load_model(str(tmp_path))
    small = processor.image_processor(PILImage.new("RGB", (28, 28)), return_tensors="pt")
    assert small["image_grid_thw"].tolist() == [[1, 6, 6]]  # 84 px, patches of 14


def test_a_least_size_above_the_largest_is_refused_with_both_keys(inputs, tmp_path):
    with pytest.raises(UserError, match=r"min_pixels.*max_pixels"):
        run_sft(config(min_pixels=112 * 112, max_pixels=56 * 56), inputs, tmp_path)
