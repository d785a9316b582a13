"""Samples and Tasks to the rows that TRL trains on. Prompts come from `Task.render`, as in evaluation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage

from pathloom.benchmarks import training_templates
from pathloom.images import load_pixels
from pathloom.schema import FOLD_PREFIX, TEST_SPLIT, Image, Sample
from pathloom.stage import UserError
from pathloom.tasks import find_task
from pathloom.tasks.task import Style
from pathloom.train.config import Replay


class LeakError(UserError):
    """Training was given a held-out Sample."""


def training_samples(samples: Iterable[Sample], held_out_fold: str | None) -> list[Sample]:
    """The Samples to learn from: split train, and in cross-validation every fold but the one held out."""
    return [
        sample
        for sample in samples
        if sample.split == "train" or (sample.split.startswith(FOLD_PREFIX) and sample.split != held_out_fold)
    ]


def refuse_held_out(samples: Iterable[Sample], held_out_fold: str | None) -> None:
    """Raise LeakError for the first Sample of the test split or of the held-out fold: the last door before training."""
    for sample in samples:
        if sample.split in (TEST_SPLIT, held_out_fold):
            raise LeakError(f"sample {sample.id} is of split {sample.split!r} and must not be trained on")


def refuse_shared_groups(training: Iterable[Sample], held_out: Iterable[Sample]) -> None:
    """Raise LeakError when a patient, slide or book stands on both sides."""
    shared = {sample.origin.cluster for sample in training} & {sample.origin.cluster for sample in held_out}
    if shared:
        source, group = min(shared)
        raise LeakError(
            f"group {group!r} of {source} has Samples in training and held out; split by group at ingest"
        )


def mix(samples: Sequence[Sample], weights: Mapping[str, float], seed: int) -> list[Sample]:
    """As many Samples as `weights` names, shared out between tasks by weight; a small task's Samples recur.

    No weights: the Samples as they are. Raises UserError for a task without Samples.
    """
    if not weights:
        return list(samples)
    of_task = {name: [sample for sample in samples if sample.task == name] for name in weights}
    for name, members in of_task.items():
        if not members:
            raise UserError(f"tasks.{name}: there is no training Sample of this task; leave it out")
    total = sum(map(len, of_task.values()))
    mixed: list[Sample] = []
    for position, (name, members) in enumerate(of_task.items()):
        order = np.random.default_rng([seed, position]).permutation(len(members))
        share = round(total * weights[name] / sum(weights.values()))
        mixed += [members[order[index % len(members)]] for index in range(share)]
    return mixed


def replayed(samples: Sequence[Sample], num_rows: int, replay: Replay, seed: int) -> list[Sample]:
    """As many of `samples` as make up `replay.share` of all rows beside `num_rows` others, drawn by `seed`.

    At least one; none recurs before all are used, but as the weights of tasks ask for it.
    """
    mixed = mix(samples, replay.tasks, seed)
    count = max(round(num_rows * replay.share / (1 - replay.share)), 1)
    order = np.random.default_rng([seed, len(mixed), count]).permutation(len(mixed))
    return [mixed[order[place % len(order)]] for place in range(count)]


@dataclass(frozen=True)
class Replayed:
    """The rows of `replay` and how they are taught."""

    samples: Sequence[Sample]
    style: Style
    augment: bool


NOTHING = Replayed((), "direct", augment=False)


class Rows:
    """The transform behind the training set: row numbers in, prompt, completion and pictures out.

    The rows of a replay come last.

    Which template a row is asked in, how its picture is turned, the order of labels and which turn of a conversation is
    learnt depend on (seed, epoch, row) alone, so a resumed run sees what an uninterrupted one would have seen. `epoch`
    is moved on by the trainer's callback. `load` gives a model its view of an image: slides are shown to those that
    read them (models/slide_ticket.py).
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        style: Style,
        *,
        augment: bool,
        seed: int,
        replayed: Replayed = NOTHING,
        load: Callable[[Image], PILImage.Image] = load_pixels,
    ) -> None:
        """Raises UserError for a caption without text, which unlabelled slides are."""
        self.samples = [*samples, *replayed.samples]
        for sample in self.samples:
            if sample.task == "caption" and not sample.answer:
                raise UserError(
                    f"sample {sample.id} has no answer to learn: give `labels` where slides are ingested, run "
                    "`annotate` and `consensus` on cells first, or name the tasks to learn in `tasks`"
                )
        self.num_new = len(samples)
        self.style = style
        self.augment = augment
        self.seed = seed
        self.replayed = replayed
        self.load = load
        self.epoch = 0

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        rows = [self.row(index) for index in batch["row"]]
        return {key: [row[key] for row in rows] for key in ("prompt", "completion", "images")}

    def row(self, index: int) -> dict[str, Any]:
        """One row; its template travels along, because an answer is scored in the words it was asked in."""
        sample = self.samples[index]
        taught = self if index < self.num_new else self.replayed
        rng = np.random.default_rng([self.seed, self.epoch, index])
        task = find_task(sample.task)
        templates = training_templates(sample.task)
        template = templates[int(rng.integers(len(templates)))]
        pictures = [self.load(image) for image in sample.images]
        if taught.augment and not sample.regions and sample.reasoning is None:
            turn = int(rng.integers(8))  # a reasoning or a box may name places, which a turn would move
            pictures = [
                turned(picture, turn) if image.slide is None else picture  # a slide's ticket reads one way
                for image, picture in zip(sample.images, pictures, strict=True)
            ]
        if task.any_order:
            order = rng.permutation(len(sample.choices))
            sample = sample.model_copy(update={"choices": tuple(sample.choices[place] for place in order)})
        if sample.earlier:
            sample = at_turn(sample, int(rng.integers(len(sample.earlier) + 1)))
        return {
            "prompt": task.render(sample, template, taught.style).messages(),
            "completion": [
                {"role": "assistant", "content": _text(task.target(sample, template, taught.style))}
            ],
            "images": pictures,
            "template": template,
        }


def at_turn(sample: Sample, turn: int) -> Sample:
    """A conversation up to its `turn`-th question, from 0. The reasoning leads to the last answer and stays with it."""
    if turn == len(sample.earlier):
        return sample
    asked = sample.earlier[turn]
    return sample.model_copy(
        update={
            "question": asked.question,
            "answer": asked.answer,
            "earlier": sample.earlier[:turn],
            "reasoning": None,
        }
    )


def _text(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def turned(picture: PILImage.Image, turn: int) -> PILImage.Image:
    """One of the eight symmetries of the square: tissue has no up."""
    if turn >= 4:
        picture = picture.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
    quarter = (
        None,
        PILImage.Transpose.ROTATE_90,
        PILImage.Transpose.ROTATE_180,
        PILImage.Transpose.ROTATE_270,
    )
    operation = quarter[turn % 4]
    return picture if operation is None else picture.transpose(operation)
