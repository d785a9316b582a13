"""The losses by hand through the real trainer, dynamic sampling, and short runs of the nano model."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.utils as trl_utils
from safetensors.torch import load_file
from tests.fixtures import make_sample
from tests.slide_fixtures import slide_image, write_slides
from tests.tasks.samples import WRONG_ANSWERS
from tests.tasks.samples import make_sample as tasks_sample
from trl import GRPOConfig

from pathloom.card import read_card
from pathloom.models.load import load_model
from pathloom.schema import Sample
from pathloom.slides.features import Shelf
from pathloom.stage import UserError, read_jsonl
from pathloom.store import read_samples, write_samples
from pathloom.tasks import find_task
from pathloom.train import reinforce
from pathloom.train.config import ReinforceConfig
from pathloom.train.loop import CHECKPOINTS, TRAINING_LOG, Progress
from pathloom.train.reinforce import (
    PromptStream,
    ReinforceTrainer,
    build_trainer,
    check_reinforce,
    run_reinforce,
)
from pathloom.train.rewards import Reward, grade
from pathloom.train.rollouts import Group, Rollout, put_together, take_apart, teaches

GROUP_SIZE = 4
TRAINER = {"max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3}


def config(**fields: Any) -> ReinforceConfig:
    given = {
        "name": "rl",
        "kind": "reinforce",
        "samples": ("phantoms",),
        "model": {"stage": "untrained"},
        "tasks": {"choice": 1},
        "group_size": GROUP_SIZE,
        "max_new_tokens": 12,
        "trainer": TRAINER,
    }
    return ReinforceConfig.model_validate({**given, **fields})


@pytest.fixture
def inputs(phantom_folder: Path, model_folder: Path) -> dict[str, Path]:
    return {"phantoms": phantom_folder, "untrained": model_folder}


@pytest.fixture(scope="module")
def samples(phantom_folder: Path) -> list[Sample]:
    """Six training questions with options and four with boxes."""
    return [
        sample
        for sample in read_samples(phantom_folder)
        if sample.split == "train" and sample.task in ("choice", "boxes")
    ]


@pytest.fixture(scope="module")
def build(
    samples: list[Sample], model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ReinforceTrainer]:
    def build_one(training: Sequence[Sample] = tuple(samples), **fields: Any) -> ReinforceTrainer:
        folder = tmp_path_factory.mktemp("rl")
        trainer = build_trainer(config(**fields), training, str(model_folder), folder)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        return trainer

    return build_one


@pytest.fixture(scope="module")
def built(build: Callable[..., ReinforceTrainer]) -> dict[str, ReinforceTrainer]:
    """One trainer of each algorithm; tests patch them and leave no trace."""
    return {algorithm: build(algorithm=algorithm) for algorithm in ("grpo", "dapo")}


@pytest.fixture
def trainers(built: dict[str, ReinforceTrainer]) -> Iterator[dict[str, ReinforceTrainer]]:
    yield built
    for trainer in built.values():
        trainer._metrics["train"].clear()


# The losses


def loss(
    trainer: ReinforceTrainer,
    monkeypatch: pytest.MonkeyPatch,
    *,
    ratios: Sequence[Sequence[float]],
    advantages: Sequence[float],
    reference_ratios: Sequence[Sequence[float]] | None = None,
    num_tokens: int | None = None,
) -> float:
    """The trainer's own loss for chosen ratios pi / pi_old, a row an answer; pi_ref / pi is 1 unless given.

    `num_tokens` are those of the whole batch, of which this may be a part.
    """
    lengths = [len(row) for row in ratios]
    mask = torch.tensor([[float(place < length) for place in range(max(lengths))] for length in lengths])
    old = torch.full(mask.shape, -1.0)

    def fill(rows: Sequence[Sequence[float]]) -> torch.Tensor:
        return torch.tensor([[*map(math.log, row), *[9.0] * (max(lengths) - len(row))] for row in rows])

    logps = old + fill(ratios)
    relative = fill(reference_ratios) if reference_ratios else torch.zeros_like(old)
    monkeypatch.setattr(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda *arguments, **options: (logps, torch.zeros_like(logps), None),
    )
    ids = torch.ones(mask.shape, dtype=torch.long)
    batch = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": torch.tensor(advantages),
        "old_per_token_logps": old,
        "ref_per_token_logps": logps + relative,
        "num_items_in_batch": torch.tensor(num_tokens or int(mask.sum())),
    }
    return float(trainer._compute_loss(trainer.model, batch))


@pytest.mark.parametrize(
    ("ratio", "advantage", "grpo", "dapo"),
    [
        # -min(r A, clip(r) A): clip is [0.8, 1.2] for GRPO and [0.8, 1.28] for DAPO
        (1.5, 1.0, -1.2, -1.28),
        (1.25, 1.0, -1.2, -1.25),
        (1.1, 1.0, -1.1, -1.1),
        (0.5, 1.0, -0.5, -0.5),  # a good answer made rarer is never clipped
        (1.5, -1.0, 1.5, 1.5),  # nor a bad one made likelier
        (0.9, -1.0, 0.9, 0.9),
        (0.5, -1.0, 0.8, 0.8),
        (0.5, -2.0, 1.6, 1.6),
    ],
)
def test_ratios_are_clipped_on_both_sides(trainers, monkeypatch, ratio, advantage, grpo, dapo):
    for algorithm, expected in (("grpo", grpo), ("dapo", dapo)):
        value = loss(trainers[algorithm], monkeypatch, ratios=[[ratio]], advantages=[advantage])
        assert value == pytest.approx(expected, rel=1e-5), algorithm


def test_grpo_means_inside_each_answer_first_and_dapo_over_all_tokens(trainers, monkeypatch):
    ratios = [[1.0], [1.0, 1.0, 1.0]]  # a good answer of one token, a bad one of three
    # GRPO: (-1 + 1) / 2 = 0. DAPO: (1 x -1 + 3 x 1) / 4 = 0.5
    assert loss(trainers["grpo"], monkeypatch, ratios=ratios, advantages=[1.0, -1.0]) == pytest.approx(0)
    assert loss(trainers["dapo"], monkeypatch, ratios=ratios, advantages=[1.0, -1.0]) == pytest.approx(0.5)


def test_dapo_divides_by_the_tokens_of_the_whole_batch_in_every_part_of_it(trainers, monkeypatch):
    # the two answers in forward passes of their own: -1 x 1 / 4 and 3 x 1 / 4, together again 0.5
    short = loss(trainers["dapo"], monkeypatch, ratios=[[1.0]], advantages=[1.0], num_tokens=4)
    long = loss(trainers["dapo"], monkeypatch, ratios=[[1.0] * 3], advantages=[-1.0], num_tokens=4)
    assert [short, long] == pytest.approx([-0.25, 0.75])


def test_grpo_adds_the_k3_estimate_of_the_kl_and_dapo_none(trainers, monkeypatch):
    # x = pi_ref / pi = 0.5: x - log x - 1 = 0.5 + 0.6931 - 1 = 0.1931; x = 2: 2 - 0.6931 - 1 = 0.3069
    options: dict[str, Any] = {"ratios": [[1.0, 1.0]], "advantages": [0.0], "reference_ratios": [[0.5, 2.0]]}
    expected = 0.001 * (0.5 - math.log(0.5) - 1 + 2 - math.log(2) - 1) / 2
    assert expected == pytest.approx(0.001 * (0.19315 + 0.30685) / 2, rel=1e-4)
    assert loss(trainers["grpo"], monkeypatch, **options) == pytest.approx(expected, rel=1e-4)
    assert loss(trainers["dapo"], monkeypatch, **options) == 0.0


def test_the_reference_of_grpo_is_the_starting_model_and_dapo_holds_none(trainers):
    grpo, dapo = trainers["grpo"], trainers["dapo"]
    assert dapo.ref_model is None
    start, reference = grpo.model.state_dict(), grpo.ref_model.state_dict()
    assert all(torch.equal(reference[name], value) for name, value in start.items())
    assert not any(parameter is other for parameter, other in zip(
        grpo.model.parameters(), grpo.ref_model.parameters(), strict=True
    ))  # fmt: skip


# Rollouts


def script_answers(
    trainer: ReinforceTrainer, monkeypatch: pytest.MonkeyPatch, lengths: Sequence[int]
) -> None:
    """Every rollout is this many tokens; those shorter than max_new_tokens end."""
    endless = itertools.cycle(lengths)

    def answer(prompt_ids: Any, *arguments: Any, **options: Any) -> tuple[list[list[int]], None]:
        ends = trainer.eos_token_ids[0]
        sizes = [next(endless) for _ in prompt_ids]
        return [
            [100] * size if size == trainer.stage.max_new_tokens else [100] * (size - 1) + [ends]
            for size in sizes
        ], None

    monkeypatch.setattr(trainer, "_generate_single_turn", answer)


def script_rewards(monkeypatch: pytest.MonkeyPatch, totals: Sequence[float]) -> None:
    endless = itertools.cycle(totals)

    def paid(*arguments: Any, **options: Any) -> Reward:
        total = next(endless)
        parts = {"correct": total, "format": 0.0, "length": 0.0}
        return Reward(total=total, accuracy=total, parts=parts, reasoned=False)

    monkeypatch.setattr(reinforce, "grade", paid)


def roll_out(trainer: ReinforceTrainer, num_groups: int) -> dict[str, Any]:
    return trainer._generate_and_score_completions([{}] * (num_groups * GROUP_SIZE))


def numbers(trainer: ReinforceTrainer) -> dict[str, float]:
    """What the trainer would log; each number was noted once."""
    assert all(len(values) == 1 for values in trainer._metrics["train"].values())
    return {name: values[0] for name, values in trainer._metrics["train"].items()}


def test_advantages_are_rewards_less_the_groups_mean_over_its_deviation(trainers, monkeypatch):
    trainer = trainers["dapo"]
    script_answers(trainer, monkeypatch, [3])
    script_rewards(monkeypatch, [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])

    batch = roll_out(trainer, 2)

    # mean 1/4, deviation over n - 1: sqrt((0.75^2 + 3 x 0.25^2) / 3) = 0.5; TRL adds 1e-4
    # mean 1/2, deviation sqrt(4 x 0.5^2 / 3) = 0.57735
    first = [0.75 / 0.5001, *[-0.25 / 0.5001] * 3]
    half = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert batch["advantages"].tolist() == pytest.approx([*first, half, half, -half, -half], rel=1e-5)


OF_TASK: dict[str, dict[str, float]] = {
    "choice": {"correct": 10.0},
    "ordinal": {"correct": 1.0, "ordinal": 1.0},
    "short_answer": {"bleu4": 0.5, "correct": 0.5},
    "boxes": {"weighted": 0.1},
    "mask": {"dice": 2.0},
    "caption": {"bleu4": 3.0},
}


def test_a_batch_of_many_tasks_and_both_scales_weighs_each_group_by_itself(
    model_folder, tmp_path, monkeypatch
):
    """Two of four answers right, whatever the task and the size of its weights: the same advantages."""
    asked = [
        tasks_sample(task, name=task, split="train", images=tasks_sample("mask").images) for task in OF_TASK
    ]
    asked[1] = asked[1].model_copy(update={"images": (slide_image("slide0"),)})
    of_slides = {"slides": ("seen",), "slide_tokens": {"side": 2}}
    settings = config(style="direct", algorithm="grpo", rewards=OF_TASK, tasks={}, **of_slides)
    shelf = Shelf([write_slides(tmp_path / "seen", {"slide0": 30})])
    trainer = build_trainer(settings, asked, str(model_folder), tmp_path / "rl", shelf)
    trainer.current_gradient_accumulation_steps = 1
    script_answers(trainer, monkeypatch, [3])
    places = itertools.count()

    def half_right(sample: Sample, completion: str, template: Any, weights: Any, **limits: Any) -> Reward:
        task = find_task(sample.task)
        right = task.target(sample, template, "direct")
        wrong = f"<answer>{WRONG_ANSWERS[sample.task][0]}</answer>"
        return grade(sample, right if next(places) % 4 < 2 else wrong, template, weights, **limits)

    monkeypatch.setattr(reinforce, "grade", half_right)

    batch = roll_out(trainer, len(asked))

    advantages = batch["advantages"].view(len(asked), GROUP_SIZE)
    expected = [0.5 / math.sqrt(1 / 3)] * 2 + [-0.5 / math.sqrt(1 / 3)] * 2
    for group in advantages.tolist():  # TRL adds 1e-4 to the deviation: that of 0.1 x right or wrong is 0.058
        assert group == pytest.approx(expected, rel=3e-3)
    assert {sample.scale for sample in asked} == {"region", "slide"}
    assert numbers(trainer)["reward"] == pytest.approx((10 + 2 + 1 + 0.1 + 2 + 3) / 2 / 6, rel=0.02)


def test_a_caption_is_reinforced_only_where_the_recipe_names_what_it_is_paid_for(build, samples):
    caption = tasks_sample("caption").model_copy(update={"split": "train"})
    with pytest.raises(UserError, match="is a caption, which no rule can reward"):
        build([samples[0], caption], tasks={}, rewards={"default": {"correct": 1.0}})
    with pytest.raises(ValueError, match=r"tasks\.caption: .* rewards: \{caption: \{bleu4: 1\.0\}\}"):
        config(tasks={"caption": 1})
    assert config(tasks={"caption": 1}, rewards={"caption": {"bleu4": 1}}).weights("caption") == {"bleu4": 1}


def test_a_segmenter_that_there_is_not_is_named_before_the_first_stage_runs():
    with pytest.raises(UserError, match="no segmenter 'clasical'"):
        config(segmenter="clasical").check()


def test_another_model_in_the_folder_of_the_segmenter_trains_anew(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = config(segmenter=f"sam:{tmp_path}").fingerprint()
    assert before.startswith(config().fingerprint()), "the classical one adds nothing"
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    assert config(segmenter=f"sam:{tmp_path}").fingerprint() != before


def test_overlong_answers_are_punished_by_their_tokens(trainers, monkeypatch):
    trainer = trainers["dapo"]  # at most 12 tokens, the last 3 in the cache
    script_answers(trainer, monkeypatch, [9, 10, 11, 12])

    batch = roll_out(trainer, 1)

    seen = numbers(trainer)
    assert trainer.stage.cache == 3
    assert seen["reward_length"] == pytest.approx((0 - 1 / 3 - 2 / 3 - 1) / 4)
    assert seen["answer_tokens"] == (9 + 10 + 11 + 12) / 4
    assert seen["cut_share"] == 1 / 4
    assert batch["completion_mask"].sum(1).tolist() == [9, 10, 11, 12]
    assert batch["advantages"].tolist() == sorted(batch["advantages"].tolist(), reverse=True)


def scripted(trainer: ReinforceTrainer, monkeypatch: pytest.MonkeyPatch, groups: str) -> list[int]:
    """Rollouts without a model: "+" is a group that teaches, "0" one that does not. Notes the prompts a round."""
    stream = itertools.cycle(groups)
    asked: list[int] = []

    def one_round(count: int) -> list[Group]:
        trainer._metrics["train"]["noise of a round"].append(1.0)
        asked.append(count)
        return [made_group([1, 0, 0, 0] if next(stream) == "+" else [0, 0, 0, 0]) for _ in range(count)]

    monkeypatch.setattr(trainer, "_roll_out", one_round)
    return asked


def made_group(totals: Sequence[float], accuracies: Sequence[float] | None = None) -> Group:
    def tensors(length: int, total: float) -> dict[str, torch.Tensor]:
        ids = torch.arange(1, length + 1)
        return {"prompt_ids": ids, "completion_ids": ids, "advantages": torch.tensor(total)}

    return [
        Rollout(
            Reward(total, accuracy, {"correct": accuracy}, reasoned=total > 0),
            finished=True,
            tensors=tensors(2 + place, total),
        )
        for place, (total, accuracy) in enumerate(zip(totals, accuracies or totals, strict=True))
    ]


def test_dynamic_sampling_asks_for_what_is_missing_until_every_group_teaches(trainers, monkeypatch):
    asked = scripted(trainers["dapo"], monkeypatch, "+0+0" + "00" + "+0" + "+")

    batch = roll_out(trainers["dapo"], 4)

    assert asked == [4, 2, 2, 1]
    seen = numbers(trainers["dapo"])
    assert "noise of a round" not in seen
    assert seen["zero_variance_share"] == 0.0
    assert (seen["rounds"], seen["groups_generated"], seen["groups_kept"]) == (4, 9, 4)
    assert batch["advantages"].view(4, GROUP_SIZE).tolist() == [[1, 0, 0, 0]] * 4
    assert seen["reward"] == seen["reward_correct"] == seen["share_reasoning"] == 1 / 4
    # answers of 2, 3, 4 and 5 tokens in each group
    assert batch["num_items_in_batch"] == 4 * (2 + 3 + 4 + 5)


def test_batches_between_two_lines_of_the_log_are_noted_beside_each_other(trainers, monkeypatch):
    trainer = trainers["dapo"]
    scripted(trainer, monkeypatch, "+0" + "+" + "++")
    roll_out(trainer, 2)
    roll_out(trainer, 2)
    assert trainer._metrics["train"]["groups_generated"] == [3, 2]
    assert "noise of a round" not in trainer._metrics["train"]


def test_a_spent_budget_fills_the_batch_with_groups_that_teach_nothing_and_counts_them(trainers, monkeypatch):
    asked = scripted(trainers["dapo"], monkeypatch, "+000" + "000" * 9)

    batch = roll_out(trainers["dapo"], 4)

    assert asked == [4, *[3] * 9]
    seen = numbers(trainers["dapo"])
    assert (seen["rounds"], seen["groups_generated"], seen["groups_kept"]) == (10, 31, 1)
    assert seen["zero_variance_share"] == 3 / 4
    assert len(batch["advantages"]) == 4 * GROUP_SIZE


@pytest.mark.parametrize(
    ("others", "own", "asked", "generated"),
    [
        # the other process lacks 4, 3, 2, then none; this one is full after the first round
        ([4, 3, 2, 0], "+", [4, 3, 2], 9),
        # the other is full at once, this one lacks three more
        ([4, 0, 0, 0, 0], "+000" + "+0+" + "+", [4, 3, 1], 8),
    ],
)
def test_all_processes_run_the_rounds_of_the_one_that_lacks_most(
    trainers, monkeypatch, others, own, asked, generated
):
    trainer = trainers["dapo"]
    lacking = iter(others)
    monkeypatch.setattr(trainer, "_most", lambda value: max(value, next(lacking)))
    counts = scripted(trainer, monkeypatch, own)

    batch = roll_out(trainer, 4)

    assert counts == asked
    assert len(batch["advantages"]) == 4 * GROUP_SIZE, "groups beyond the batch are dropped"
    assert numbers(trainer)["zero_variance_share"] == 0.0
    assert numbers(trainer)["groups_generated"] == generated


def test_grpo_trains_on_the_first_groups_whatever_they_are(trainers, monkeypatch):
    asked = scripted(trainers["grpo"], monkeypatch, "+000")

    roll_out(trainers["grpo"], 4)

    assert asked == [4]
    assert numbers(trainers["grpo"])["zero_variance_share"] == 3 / 4


def test_a_group_teaches_when_accuracy_or_if_asked_the_reward_differs():
    all_wrong_but_one_is_tidy = made_group([1, 0, 0, 0], accuracies=[0, 0, 0, 0])
    assert not teaches(all_wrong_but_one_is_tidy, "accuracy")
    assert teaches(all_wrong_but_one_is_tidy, "reward")
    right_but_untidy = made_group([1, 1, 1, 1], accuracies=[1, 0, 0, 0])
    assert not teaches(right_but_untidy, "accuracy"), "every advantage would be 0"
    assert teaches(made_group([0.3, 0.2, 0.2, 0.2]), "accuracy"), "graded accuracies"
    assert not teaches(made_group([0.1 + 0.2, 0.3, 0.3, 0.3]), "accuracy"), "rounding is no difference"


# Prompts


def test_a_pass_asks_every_prompt_once_and_the_next_in_another_order():
    stream = PromptStream(6, seed=3)
    drawn = [prompt for count in (4, 5, 3) for prompt in stream.draw(count)]
    assert [number for number, _ in drawn] == [0] * 6 + [1] * 6
    first, second = [row for _, row in drawn[:6]], [row for _, row in drawn[6:]]
    assert sorted(first) == sorted(second) == list(range(6))
    assert first != second
    assert PromptStream(6, seed=3).draw(12) == drawn
    assert PromptStream(6, seed=4).draw(12) != drawn


def test_processes_share_the_prompts_out_and_keep_one_position():
    one, *both = PromptStream(5, 0), PromptStream(5, 0, 0, 2), PromptStream(5, 0, 1, 2)
    for count in (2, 1, 3):
        shares = [stream.draw(count) for stream in both]
        assert [*shares[0], *shares[1]] == one.draw(2 * count)
        assert both[0].drawn == both[1].drawn == one.drawn


def test_a_position_is_the_whole_state_of_the_prompts():
    stream = PromptStream(5, seed=1)
    stream.draw(8)
    resumed = PromptStream(5, seed=1)
    resumed.drawn = stream.drawn
    assert resumed.draw(9) == stream.draw(9)


def test_an_answer_is_scored_in_the_template_it_was_asked_in(trainers, monkeypatch):
    trainer = trainers["grpo"]
    graded: list[tuple[Sample, str]] = []

    def noted(sample: Sample, completion: str, template: Any, *arguments: Any, **limits: Any) -> Reward:
        graded.append((sample, template.name))
        return Reward(0.0, 0.0, {}, reasoned=False)

    monkeypatch.setattr(reinforce, "grade", noted)
    script_answers(trainer, monkeypatch, [3])
    start = trainer.prompts.drawn

    roll_out(trainer, 30)

    stream = PromptStream(len(trainer.rows.samples), trainer.stage.seed)
    stream.drawn = start
    expected = []
    for number, index in stream.draw(30):
        trainer.rows.epoch = number
        asked = (trainer.rows.samples[index], trainer.rows.row(index)["template"].name)
        expected += [asked] * GROUP_SIZE
    assert [(sample.id, name) for sample, name in graded] == [(sample.id, name) for sample, name in expected]
    assert len({name for _, name in graded}) > 2


# Batches


@pytest.fixture(scope="module")
def mixed(samples: list[Sample]) -> list[Sample]:
    """A question with a picture, one without, one with two."""
    picture = samples[0].images[0]
    return [
        make_sample("text", images=(), question="Is a melanoma malignant?"),
        make_sample("one", images=(picture,)),
        make_sample("two", images=(picture, samples[1].images[0]), question="Are both necrotic?"),
    ]


def logps(trainer: ReinforceTrainer, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        values, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].shape[1],
            **{
                name: batch.get(name)
                for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
            },
        )
    return values * batch["completion_mask"]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_rollouts_of_several_rounds_keep_their_pictures_and_places_when_put_together(
    build, mixed, model_folders, tmp_path, family
):
    fields = {"tasks": {"yes_no": 1}, "group_size": 2, "algorithm": "grpo"}
    trainer = build_trainer(config(**fields), mixed, str(model_folders[family]), tmp_path)
    trainer.model.train()
    rounds = [trainer._roll_out(count) for count in (2, 1, 3)]
    rollouts = [rollout for groups in rounds for group in groups for rollout in group]
    pad_id = trainer._tokenizer.pad_token_id

    together = logps(trainer, put_together([rollout.tensors for rollout in rollouts], pad_id))

    assert len({rollout.tensors.get("num_images", 0) for rollout in rollouts}) == 3
    picture_token = trainer.model.config.image_token_id
    for rollout, row in zip(rollouts, together, strict=True):
        if "mm_token_type_ids" in rollout.tensors:
            is_picture = rollout.tensors["prompt_ids"] == picture_token
            assert torch.equal(rollout.tensors["mm_token_type_ids"].bool(), is_picture)
        alone = logps(trainer, put_together([rollout.tensors], pad_id))[0]
        assert row[: len(alone)].tolist() == pytest.approx(alone.tolist(), abs=1e-4)
        assert not row[len(alone) :].any()
        # and the reference, computed a round at a time by TRL, is the starting model: the same numbers
        assert rollout.tensors["ref_per_token_logps"].tolist() == pytest.approx(alone.tolist(), abs=1e-4)


def test_taking_apart_and_putting_together_gives_the_same_batch(trainers, monkeypatch):
    trainer = trainers["dapo"]
    script_answers(trainer, monkeypatch, [3, 5])
    batch = roll_out(trainer, 2)
    del batch["num_items_in_batch"]

    again = put_together(take_apart(batch), trainer._tokenizer.pad_token_id)

    assert again.keys() == batch.keys()
    for name, values in batch.items():
        assert torch.equal(torch.as_tensor(again[name]), torch.as_tensor(values)), name


def test_a_family_with_other_tensors_is_refused(trainers, monkeypatch):
    script_answers(trainers["dapo"], monkeypatch, [3])
    batch = roll_out(trainers["dapo"], 1)
    with pytest.raises(UserError, match="image_sizes"):
        take_apart({**batch, "image_sizes": torch.ones(4, 2)})


def test_scoring_only_the_answers_tokens_on_a_cpu_changes_no_number(trainers, monkeypatch):
    trainer = trainers["dapo"]
    script_answers(trainer, monkeypatch, [3, 7])
    batch = roll_out(trainer, 2)
    assert trl_utils._use_triton(torch.device("cpu")), "training asks for it"
    compact = logps(trainer, batch)

    monkeypatch.setattr(trl_utils, "_use_triton", lambda device: False)

    assert compact.any()
    torch.testing.assert_close(logps(trainer, batch), compact)


def test_no_placeholder_and_no_special_token_is_ever_sampled(trainers):
    trainer = trainers["grpo"]
    tokenizer = trainer.processing_class.tokenizer
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = set(trainer.eos_token_ids)
    assert {trainer.model.config.image_token_id, tokenizer.pad_token_id} <= special - ends

    batch = roll_out(trainer, 16)

    answers = batch["completion_ids"][batch["completion_mask"].bool()].tolist()
    assert len(answers) > 600
    # by chance none of 13 in 600 tokens of an untrained model: (1 - 13/600)^600, or 2 in a million
    assert not set(answers) & (special - ends)
    assert set(answers) & ends


# Runs


class Stopped(BaseException):
    """Stands for a kill: nothing in the code catches it."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_over_two_tasks_leaves_a_model_a_card_and_a_curve(inputs, model_folder, tmp_path):
    rewards = {"choice": {"correct": 2, "length": 1}, "boxes": {"ap50": 1, "format": 0.5, "length": 0.5}}

    counts = run_reinforce(
        config(tasks={"choice": 1, "boxes": 1}, rewards=rewards, filter_by="reward", max_rounds=2),
        inputs,
        tmp_path,
    )

    assert (counts["trained_on"], counts["steps"]) == (10, 2)
    assert not same_weights(tmp_path, model_folder)
    left = {path.name for path in tmp_path.rglob("*")}
    assert "generation_config.json" in left
    assert not any(name.startswith(("checkpoint", "README", "completions")) for name in left)
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in left)
    _, processor = load_model(str(tmp_path))
    assert processor.tokenizer.padding_side == load_model(str(model_folder))[1].tokenizer.padding_side
    card = read_card(tmp_path)
    assert card.tasks == ("boxes", "choice")
    assert card.base == "untrained"
    log = read_jsonl(tmp_path / TRAINING_LOG)
    assert [line["step"] for line in log] == [1, 2]
    always = {
        "loss", "reward", "zero_variance_share", "groups_generated", "groups_kept", "rounds", "entropy",
        "answer_tokens", "share_reasoning", "clipped_share", "cut_share", "learning_rate",
    }  # fmt: skip
    for line in log:
        assert always <= set(line)
        assert "kl" not in line
    seen = set().union(*log)
    assert {"reward_correct", "reward_format", "reward_ap50", "reward_length"} <= seen


def run_resumed(
    inputs: dict[str, Path], out: Path, stopped_after: int, **fields: Any
) -> list[dict[str, Any]]:
    """Train, stop right after the checkpoint of a step, train on. Gives that checkpoint's prompts.json and the log."""

    def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == stopped_after:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "on_save", on_save)
        with pytest.raises(Stopped):
            run_reinforce(config(**fields), inputs, out)
    checkpoint = out / CHECKPOINTS / f"checkpoint-{stopped_after}"
    position = json.loads((checkpoint / "prompts.json").read_text())
    run_reinforce(config(**fields), inputs, out)
    return [position, *read_jsonl(out / TRAINING_LOG)]


RESUMABLE = {
    "filter_by": "reward",  # an untrained model is never right, but its answers differ in length
    "group_size": 2,  # two answers are often equally long: some prompts are asked in place of others
    "max_rounds": 3,
    "augment": True,
    "trainer": {**TRAINER, "per_device_train_batch_size": 4, "max_steps": 4, "save_steps": 1},
}


@pytest.fixture(scope="module")
def uninterrupted(phantom_folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run_reinforce(config(**RESUMABLE), {"phantoms": phantom_folder, "untrained": model_folder}, out)
    return out


@pytest.mark.parametrize("stopped_after", [1, 3])  # the third step ends the first epoch of three
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    uninterrupted, inputs, model_folder, tmp_path, stopped_after
):
    position, *log = run_resumed(inputs, tmp_path, stopped_after, **RESUMABLE)

    whole = read_jsonl(uninterrupted / TRAINING_LOG)
    drawn = sum(line["groups_generated"] for line in whole[:stopped_after])
    assert position == {"drawn": drawn}
    assert drawn > 2 * stopped_after, "some prompts were asked in place of others"
    assert log == whole
    assert same_weights(tmp_path, uninterrupted)
    assert not same_weights(tmp_path, model_folder)


def test_lora_learns_against_the_model_without_adapters(inputs, model_folder, tmp_path):
    trainer = {**TRAINER, "learning_rate": 0.05, "max_steps": 2}
    fields = {"algorithm": "grpo", "lora": {"r": 4}, "rewards": {"choice": {"correct": 1, "length": 1}}}

    run_reinforce(config(**fields, trainer=trainer), inputs, tmp_path)

    before, after = weights(model_folder), weights(tmp_path)
    assert before.keys() == after.keys(), "no adapter is left beside the weights"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("visual" in name for name in changed)
    kl = [line["kl"] for line in read_jsonl(tmp_path / TRAINING_LOG)]
    assert kl[0] == pytest.approx(0.0, abs=1e-6)
    assert kl[1] > 0


def test_only_the_modules_asked_for_learn(inputs, model_folder, tmp_path):
    fields = {"filter_by": "reward", "max_rounds": 2, "trainable": ("projector",)}
    run_reinforce(config(**fields, trainer={**TRAINER, "max_steps": 1}), inputs, tmp_path)

    before, after = weights(model_folder), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("merger" in name for name in changed)


def test_text_alone_and_pictures_learn_in_one_run(inputs, mixed, tmp_path):
    write_samples(mixed, tmp_path / "mixed")
    out = tmp_path / "out"
    out.mkdir()
    # one rollout at a time, so that some forward passes have no picture; two steps from every batch of rollouts
    trainer = {
        "max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 3, "steps_per_generation": 6,
    }  # fmt: skip
    fields = {"tasks": {}, "group_size": 2, "filter_by": "reward", "max_rounds": 1, "trainer": trainer}

    run_reinforce(config(**fields), {**inputs, "phantoms": tmp_path / "mixed"}, out)

    log = read_jsonl(out / TRAINING_LOG)
    assert len(log) == 2
    assert all(math.isfinite(line["loss"]) for line in log)
    assert "rounds" in log[0]
    assert "rounds" not in log[1], "its rollouts came from the batch before"


def test_each_fold_has_its_own_model(inputs, samples, tmp_path):
    folds = [
        sample.model_copy(update={"split": f"fold-{index % 2}"})
        for index, sample in enumerate(sample for sample in samples if sample.task == "choice")
    ]
    write_samples(folds, tmp_path / "folds")
    out = tmp_path / "out"
    out.mkdir()
    fields = {"filter_by": "reward", "max_rounds": 1, "trainer": {**TRAINER, "max_steps": 1}}

    counts = run_reinforce(config(**fields), {**inputs, "phantoms": tmp_path / "folds"}, out)

    assert counts == {"folds": {"fold-0": 3, "fold-1": 3}}
    assert {path.name for path in out.iterdir()} == {"fold-0", "fold-1"}
    assert read_card(out / "fold-1").num_train_samples == 3


# What is refused


def test_a_sample_that_no_rule_can_grade_is_refused_with_the_key(inputs, tmp_path):
    with pytest.raises(UserError, match=r"rl\.tasks: sample .* is a caption.*boxes, choice, count, yes_no"):
        run_reinforce(config(tasks={}), inputs, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": {"caption": 1}}, "caption: no rule says whether an answer is right"),
        ({"rewards": {"boxes": {"ap5": 1}}}, r"rewards\.boxes\.ap5: .* did you mean 'ap50'"),
        ({"algorithm": "dapo", "kl_weight": 0.01}, "kl_weight: DAPO has no KL term"),
        ({"overlong_cache": 12}, "overlong_cache: 12 leaves no answer of max_new_tokens 12 unpunished"),
        ({"trainer": {"beta": 0.1}}, "beta is set by the stage; use the stage's kl_weight"),
        (
            {"trainer": {"num_generations": 4}},
            "num_generations is set by the stage; use the stage's group_size",
        ),
        ({"trainer": {"loss_type": "grpo"}}, "loss_type is set by the stage; use the stage's algorithm"),
        ({"trainer": {"generation_kwargs": {}}}, "generation_kwargs is set by the stage; remove it"),
        ({"trainer": {"seed": 3}}, "seed is set by the stage"),
        ({"style": "direct", "rewards": {"default": {"correct": 1, "format": 1}}}, "default.format"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_the_recipe_is_read(fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"learning_rat": 1e-6}, "did you mean 'learning_rate'"),
        ({"per_device_train_batch_size": 6}, "must be divisible by num_generations"),
        ({"learning_rate": "1e-6"}, "is text where a number"),
    ],
)
def test_a_trainer_block_is_checked_before_the_first_stage(trainer, message):
    with pytest.raises(UserError, match=message):
        config(trainer=trainer).check()


class OfTwoProcesses(GRPOConfig):
    world_size = 2


def test_a_batch_that_would_cut_a_group_in_two_is_refused(monkeypatch):
    monkeypatch.setattr(reinforce, "GRPOConfig", OfTwoProcesses)
    with pytest.raises(UserError, match=r"2 rollouts a process .* no multiple of group_size 4"):
        check_reinforce(config(trainer={"per_device_train_batch_size": 2}))


def test_defaults_are_those_of_the_papers():
    dapo, grpo = config(max_new_tokens=128), config(algorithm="grpo", max_new_tokens=128)
    assert (dapo.algorithm, dapo.beta, dapo.cache, dapo.max_rounds) == ("dapo", 0.0, 32, 10)
    assert (grpo.beta, ReinforceConfig.model_fields["group_size"].default) == (0.001, 8)
    assert dapo.weights("choice") == {"correct": 1, "format": 1, "length": 1}
    assert grpo.weights("choice") == {"correct": 1, "format": 1}
    mixed = config(rewards={"boxes": {"ap50": 1}, "default": {"correct": 3}})
    assert (mixed.weights("boxes"), mixed.weights("count")) == ({"ap50": 1}, {"correct": 3})
