"""Stage `reinforce`: GRPO and DAPO over TRL's GRPOTrainer, rewarded by the Task's own Score.

TRL 1.16 has both losses but no dynamic sampling; that, the prompts' order and what is logged are ours.
"""

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from pathloom.models.segment import load_segmenter
from pathloom.models.slide import copy_slides
from pathloom.models.slide_ticket import picture_loader
from pathloom.schema import Sample
from pathloom.slides.features import Shelf
from pathloom.stage import UserError, write_json
from pathloom.tasks import find_task
from pathloom.tasks.task import Template
from pathloom.train.config import ReinforceConfig
from pathloom.train.loop import (
    CHECKPOINTS,
    Progress,
    ResumesWholeModels,
    check_trainer_block,
    finish,
    last_whole_checkpoint,
    load_trainable,
    quiet,
    run_by_fold,
    trainer_settings,
)
from pathloom.train.parts import lora_config
from pathloom.train.rewards import Reward, grade
from pathloom.train.rollouts import PICTURES, Group, Rollout, put_together, take_apart, teaches
from pathloom.train.rows import Rows

CURVE = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "reward": "reward",
    "zero_variance_share": "zero_variance_share",
    "groups_generated": "groups_generated",
    "groups_kept": "groups_kept",
    "rounds": "rounds",
    "entropy": "entropy",
    "answer_tokens": "answer_tokens",
    "cut_share": "cut_share",
    "share_reasoning": "share_reasoning",
    "clip_ratio/region_mean": "clipped_share",
    "kl": "kl",
}
"""The trainer's names of logged numbers to ours; one reward_<part> for each part comes beside them.

All are means over the batch that is trained on, except groups_generated, groups_kept (those of them that teach) and
rounds. cut_share is the share of answers that ran into max_new_tokens, clipped_share that of tokens whose ratio is
clipped.
"""
PROMPTS_FILE = "prompts.json"

_OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    # "grpo": a mean inside each answer, then over answers.
    "grpo": {"loss_type": "grpo", "epsilon": 0.2, "epsilon_high": 0.2},
    # "dapo": one mean over the tokens of the whole batch; the clip bounds of arXiv 2503.14476, section 4.1.
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28},
}


def check_reinforce(config: ReinforceConfig) -> None:
    """Raise UserError for a `trainer` block that GRPOConfig does not take or whose batch cuts a group in two."""
    check_trainer_block(config, GRPOConfig, lambda folder: _arguments(config, folder))


def run_reinforce(config: ReinforceConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one model into `out`, or one a fold into `out`/fold-k. Returns counts for the manifest.

    Under torchrun every process calls this and the first one writes.
    """
    counts = run_by_fold(config, inputs, out, train_one)
    PartialState().destroy_process_group()  # otherwise the other processes end with SIGABRT
    return counts


def train_one(
    config: ReinforceConfig, training: Sequence[Sample], base: str, out: Path, shelf: Shelf | None = None
) -> dict[str, Any]:
    trainer = build_trainer(config, training, base, out, shelf)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / CHECKPOINTS))
    trainer.processing_class = trainer.processor_to_save
    curve = {**CURVE, **{f"reward_{part}": f"reward_{part}" for part in trainer.parts}}
    return finish(trainer, config, base, training, out, curve)


def build_trainer(
    config: ReinforceConfig, training: Sequence[Sample], base: str, out: Path, shelf: Shelf | None = None
) -> "ReinforceTrainer":
    """The trainer, ready to run. Raises UserError for a Sample that no rule can grade."""
    for sample in training:
        if not config.can_reward(sample.task):
            known = sorted({other.task for other in training if config.can_reward(other.task)})
            raise UserError(
                f"{config.name}.tasks: sample {sample.id} is a {sample.task}, which no rule can reward; "
                f"name the tasks to learn: {', '.join(known) or 'the samples have none'}"
            )
    model, processor = load_trainable(config, base, shelf, training)
    trainer = ReinforceTrainer(
        config,
        training,
        model,
        processor,
        _arguments(config, out / CHECKPOINTS),
        [Progress(config, out, "reward")],
    )
    quiet(trainer)
    return trainer


def _arguments(config: ReinforceConfig, folder: Path) -> GRPOConfig:
    arguments = GRPOConfig(
        **{
            **trainer_settings(config, folder),
            **_OBJECTIVES[config.algorithm],
            "beta": config.beta,
            "scale_rewards": "group",
            "num_generations": config.group_size,
            "max_completion_length": config.max_new_tokens,
            "temperature": config.temperature,
        }
    )
    per_process = arguments.per_device_train_batch_size * arguments.steps_per_generation
    if per_process % config.group_size:
        raise ValueError(
            f"{per_process} rollouts a process (per_device_train_batch_size x steps_per_generation, which is "
            f"gradient_accumulation_steps by default) are no multiple of group_size {config.group_size}"
        )
    return arguments


class PromptStream:
    """Numbers of rows without end: every pass over them is in a new order, which (seed, pass) alone decides.

    All processes draw together and the same number, each its own share, so no prompt is asked twice in a pass and
    `drawn`, the prompts drawn by all of them, is the whole state.
    """

    def __init__(self, num_rows: int, seed: int, process: int = 0, num_processes: int = 1) -> None:
        self.num_rows = num_rows
        self.process = process
        self.num_processes = num_processes
        self.drawn = 0
        self._order = lru_cache(maxsize=2)(
            lambda number: np.random.default_rng([seed, number]).permutation(num_rows).tolist()
        )

    def draw(self, count: int) -> list[tuple[int, int]]:
        """The next `count` prompts of this process, as (pass, row)."""
        first = self.drawn + self.process * count
        self.drawn += self.num_processes * count
        places = [divmod(place, self.num_rows) for place in range(first, first + count)]
        return [(number, self._order(number)[place]) for number, place in places]


class ReinforceTrainer(ResumesWholeModels, GRPOTrainer):
    """TRL's trainer with DAPO's dynamic sampling, its own order of prompts, and numbers of the batch trained on.

    A run that is resumed goes on as the uninterrupted one would: random states, the place among the prompts and the
    weights come back. Rollouts that were waiting for a later step (steps_per_generation above
    gradient_accumulation_steps, or num_iterations above 1) do not: they are sampled anew.
    """

    def __init__(
        self,
        config: ReinforceConfig,
        training: Sequence[Sample],
        model: Any,
        processor: Any,
        arguments: GRPOConfig,
        callbacks: list[Any],
    ) -> None:
        self.stage = config
        self.rows = Rows(
            training,
            config.style,
            augment=config.augment,
            seed=config.seed,
            load=picture_loader(model, processor),
        )
        self.weights = {task: config.weights(task) for task in sorted({sample.task for sample in training})}
        self.parts = sorted({part for weights in self.weights.values() for part in weights})
        draws = any(find_task(task).grade_drawn for task in self.weights)
        self.segment = load_segmenter(config.segmenter) if draws else None
        self._rewarded: list[Reward] = []
        self.processor_to_save = processor
        # TRL pads mm_token_type_ids as the processor does, and its own prompt tokens always on the left
        processor = copy.deepcopy(processor)
        processor.tokenizer.padding_side = "left"
        forbidden = _forbidden_tokens(model, processor.tokenizer)
        arguments.generation_kwargs = (
            {"logit_bias": dict.fromkeys(forbidden, -100.0)}  # vLLM's lowest
            if arguments.use_vllm
            else {"suppress_tokens": forbidden}
        )
        # The rows come from the stream below; TRL's own sampler drops all of a set smaller than one batch.
        places = max(len(training), arguments.generation_batch_size // config.group_size)
        super().__init__(
            model=model,
            args=arguments,
            reward_funcs=[self._reward],
            train_dataset=Dataset.from_dict({"place": list(range(places))}),
            processing_class=processor,
            peft_config=lora_config(config, model),
            callbacks=callbacks,
        )
        if self.ref_model is not None:
            copy_slides(self.model, self.ref_model)  # TRL loads the reference without what reads slides
        self.prompts = PromptStream(
            len(training), config.seed, self.accelerator.process_index, self.accelerator.num_processes
        )
        for each in (self.model, self.ref_model):
            if each is not None:
                each.register_forward_pre_hook(_without_no_pictures, with_kwargs=True)

    def _reward(
        self,
        completion_ids: Sequence[Sequence[int]],
        sample: Sequence[Sample],
        template: Sequence[Template],
        **unused: Any,
    ) -> list[float]:
        """TRL's reward function: totals, in order; the whole Rewards are kept for `_roll_out`."""
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        self._rewarded = [
            grade(
                asked,
                text,
                wording,
                self.weights[asked.task],
                num_tokens=len(tokens),
                max_tokens=self.stage.max_new_tokens,
                cache=self.stage.cache,
                segment=self.segment,
            )
            for asked, text, wording, tokens in zip(sample, texts, template, completion_ids, strict=True)
        ]
        return [reward.total for reward in self._rewarded]

    def _roll_out(self, count: int) -> list[Group]:
        """`count` fresh prompts, a group of rollouts each. Every process must call this with the same count."""
        rows = []
        for number, index in self.prompts.draw(count):
            self.rows.epoch = number
            rows += [{**self.rows.row(index), "sample": self.rows.samples[index]}] * self.num_generations
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL asks transformers by a name that is to go
            tensors = take_apart(super()._generate_and_score_completions(rows))
        ended = torch.tensor(self.eos_token_ids)
        rollouts = [
            Rollout(reward, bool(torch.isin(each["completion_ids"][-1].cpu(), ended)), each)
            for reward, each in zip(self._rewarded, tensors, strict=True)
        ]
        return [
            rollouts[start : start + self.num_generations]
            for start in range(0, len(rollouts), self.num_generations)
        ]

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL says None for a prompt without pictures among others, which no image processor takes."""
        *before, pictures, of_tools = super()._generate(prompts)
        return *before, pictures and [each or [] for each in pictures], of_tools

    def _generate_and_score_completions(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """A generation batch of whole groups; `inputs` says only how many rollouts this process wants.

        dapo: groups that teach nothing are put aside and fresh prompts asked in their place, as many as the process
        that lacks most, for `max_rounds` rounds at most; then the groups put aside fill the batch up. Groups beyond
        the batch are dropped.
        """
        wanted = len(inputs) // self.num_generations
        before = {name: list(values) for name, values in self._metrics["train"].items()}
        kept: list[Group] = []
        aside: list[Group] = []
        rounds = 0
        while rounds < (self.stage.max_rounds if self.stage.algorithm == "dapo" else 1):
            missing = self._most(max(wanted - len(kept), 0))
            if missing == 0:
                break
            rounds += 1
            for group in self._roll_out(missing):
                (kept if teaches(group, self.stage.filter_by) else aside).append(group)
        chosen = [*kept, *aside][:wanted]
        # TRL has noted every round for itself
        self._metrics["train"].clear()
        self._metrics["train"].update(before)
        self._note(chosen, len(kept), len(kept) + len(aside), rounds)
        batch = put_together(
            [rollout.tensors for group in chosen for rollout in group], self._tokenizer.pad_token_id
        )
        batch["num_items_in_batch"] = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        return batch

    def _most(self, value: int) -> int:
        """The largest value of all processes."""
        return int(self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).max())

    def _note(self, chosen: Sequence[Group], num_kept: int, num_generated: int, rounds: int) -> None:
        """Append the numbers of one generation batch, over all processes, to what TRL logs."""
        rollouts = [rollout for group in chosen for rollout in group]
        noted: dict[str, Sequence[float]] = {
            "reward": [rollout.reward.total for rollout in rollouts],
            "answer_tokens": [len(rollout.tensors["completion_ids"]) for rollout in rollouts],
            "cut_share": [not rollout.finished for rollout in rollouts],
            "share_reasoning": [rollout.reward.reasoned for rollout in rollouts],
            "zero_variance_share": [not teaches(group, self.stage.filter_by) for group in chosen],
        }
        for part in self.parts:  # a part of one task is averaged over that task's rollouts
            noted[f"reward_{part}"] = [
                rollout.reward.parts[part] for rollout in rollouts if part in rollout.reward.parts
            ]
        sums = [[float(sum(values)), float(len(values))] for values in noted.values()]
        totals = self._sum([*sums, [float(num_generated), float(num_kept)]])
        for name, (total, count) in zip(noted, totals[:-1], strict=True):
            if count:
                self._metrics["train"][name].append(total / count)
        for name, number in zip(("groups_generated", "groups_kept"), totals[-1], strict=True):
            self._metrics["train"][name].append(number)
        self._metrics["train"]["rounds"].append(rounds)

    def _sum(self, values: list[list[float]]) -> list[list[float]]:
        """The sum over all processes."""
        tensor = torch.tensor(values, device=self.accelerator.device)
        return self.accelerator.reduce(tensor, reduction="sum").tolist()

    def _save_rng_state(self, output_dir: str) -> None:
        """Beside the random states, and before the trainer's state that makes a checkpoint whole."""
        super()._save_rng_state(output_dir)
        if self.is_world_process_zero():
            write_json({"drawn": self.prompts.drawn}, Path(output_dir) / PROMPTS_FILE)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self.prompts.drawn = json.loads((Path(checkpoint) / PROMPTS_FILE).read_text())["drawn"]


def _forbidden_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Special tokens that do not end an answer: a sampled picture token would be taken for a picture.

    The tags of reasoning and answer are ordinary tokens in both Qwen families.
    """
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= {
        getattr(model.config, f"{name}_token_id", None)
        for name in ("image", "video", "vision_start", "vision_end")
    }
    return sorted({*special, *tokenizer.all_special_ids} - ends - {None})


def _without_no_pictures(module: Any, positional: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A forward pass over text alone, cut out of a batch with pictures: the vision towers take no empty tensor."""
    pixels = named.get("pixel_values")
    if pixels is not None and len(pixels) == 0:
        named = {key: value for key, value in named.items() if key not in PICTURES}
    return positional, named
