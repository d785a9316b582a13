"""What every training stage shares: settings, folds, checkpoints that come back, progress, the curve and the card."""

import dataclasses
import difflib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trl.trainer.utils as trl_utils
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from pathloom import __version__
from pathloom.benchmarks import training_templates
from pathloom.card import CARD_FILE, ModelCard, write_card
from pathloom.models.experts import mixture_of
from pathloom.models.load import default_device, load_card, load_model
from pathloom.models.slide import attach_slides, give_shelf, reads_slides, tile_statistics
from pathloom.models.slide_ticket import ticket_form
from pathloom.schema import FOLD_PREFIX, TEST_SPLIT, Sample
from pathloom.slides.features import Shelf, lacks_features, open_shelf
from pathloom.stage import UserError, write_jsonl
from pathloom.store import read_samples
from pathloom.train.config import SftConfig, TrainConfig
from pathloom.train.parts import count_trainable, freeze_the_rest, what_learns
from pathloom.train.rows import (
    LeakError,
    Replayed,
    mix,
    refuse_held_out,
    refuse_shared_groups,
    replayed,
    training_samples,
)

CHECKPOINTS = "checkpoints"
TRAINING_LOG = "training.jsonl"
Config = TypeVar("Config", bound=TrainConfig)


def check_trainer_block(config: TrainConfig, arguments_class: type, build: Callable[[Path], Any]) -> None:
    """Raise UserError for a key or value of `trainer` that TRL's config class does not take."""
    known = {field.name: field.default for field in dataclasses.fields(arguments_class) if field.init}
    for key, value in config.trainer.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; see TRL's {arguments_class.__name__}"
            raise UserError(f"{config.name}.trainer.{key}: unknown key{hint}")
        if isinstance(known[key], int | float) and isinstance(value, str):
            raise UserError(
                f"{config.name}.trainer.{key}: {value!r} is text where a number or true/false stands"
            )
    try:
        build(Path("unused"))
    except (TypeError, ValueError) as error:
        raise UserError(f"{config.name}.trainer: {error}") from error


def trainer_settings(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Our defaults under the recipe's trainer block. On a CPU TRL's own defaults (bf16, checkpointing) do not run."""
    on_cpu = default_device().type == "cpu"
    return {
        "bf16": not on_cpu,
        "use_cpu": on_cpu,
        "activation_checkpointing": not on_cpu,
        "logging_steps": 10,
        "save_steps": 100,
        "save_total_limit": 2,
        "report_to": "none",
        "dataloader_pin_memory": not on_cpu,
        **config.trainer,
        "output_dir": str(folder),
        "seed": config.seed,
        "data_seed": config.seed,
        "remove_unused_columns": False,
    }


def _scores_only_labels(device: Any) -> bool:
    """Whether TRL's loss projects only the tokens that are learnt: on a CPU too, where TRL projects all of them.

    The loss is the same number. With a vocabulary of 4,096 and a tenth of the tokens learnt, a step of the nano model
    takes about 0.4 of the time (docs/log.md).
    """
    return device.type == "cpu" or bool(_with_triton(device))


_with_triton = trl_utils._use_triton  # read by the loss in that module; the kernel reads its own copy
trl_utils._use_triton = _scores_only_labels


class ResumesWholeModels:
    """Mixed into a trainer: checkpoints of a whole model come back when a run is resumed."""

    is_fsdp_enabled: bool
    model: Any

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """transformers 5.23 looks here for the model's own tensor names, but save_pretrained has written the hub's.

        None of them match, which it only warns of, so training would go on from the base model's weights.
        """
        if self.is_fsdp_enabled or not any(Path(resume_from_checkpoint).glob("model*.safetensors")):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        # "auto" would round what learns in float32 inside a model of half precision
        saved, _ = load_model(resume_from_checkpoint, dtype="float32")
        (model or self.model).load_state_dict(saved.state_dict())


def run_by_fold(
    config: Config,
    inputs: Mapping[str, Path],
    out: Path,
    train_one: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    """Train one model into `out`, or one a fold into `out`/fold-k. Returns counts for the manifest.

    `train_one(config, samples, base, out)` gets the Samples to learn from and the folder or hub id to start from; that
    of an entry with `replay` gets `replayed` too, that of one with `slides` the `shelf`.
    """
    shelf = open_shelf(config.slides, inputs)
    given = _read(config.samples, inputs)
    samples = _learnable(given, config.tasks, shelf, config.name)
    counted = {"without_slide_features": len(given) - len(samples)} if len(samples) < len(given) else {}
    folds = _folds(samples)
    beside = {} if shelf is None else {"shelf": shelf}
    replay = _Replaying(config, samples, inputs, shelf)
    base = config.model.locate(inputs)
    if not folds:
        training = _training_set(config, samples, None)
        return train_one(config, training, base, out, **beside, **replay.beside(training, None)) | counted
    counts, warnings = {}, []
    for fold in folds:
        folder = out / fold
        if not (folder / CARD_FILE).is_file():  # the card is written last: a fold that has one is finished
            folder.mkdir(exist_ok=True)
            # cross-validated before: each fold goes on from its own model
            start = str(Path(base) / fold) if (Path(base) / fold).is_dir() else base
            training = _training_set(config, samples, fold)
            told = train_one(config, training, start, folder, **beside, **replay.beside(training, fold))
            warnings += [f"{fold}: {warning}" for warning in told.get("warnings", ())]
        counts[fold] = sum(sample.split == fold for sample in samples)
    return {"folds": counts} | counted | ({"warnings": warnings} if warnings else {})


def _learnable(
    samples: Sequence[Sample], tasks: Mapping[str, float], shelf: Shelf | None, where: str
) -> list[Sample]:
    """The Samples without those that would be learnt, but are about a slide that could not be encoded.

    Raises UserError for a slide that nobody was asked to encode.
    """
    return [
        sample
        for sample in samples
        if (tasks and sample.task not in tasks)
        or not training_samples([sample], None)
        or not lacks_features(sample, shelf, where)
    ]


def _read(stages: Iterable[str], inputs: Mapping[str, Path]) -> list[Sample]:
    return [sample for name in stages for sample in read_samples(inputs[name])]


def _folds(samples: Iterable[Sample]) -> list[str]:
    return sorted({sample.split for sample in samples if sample.split.startswith(FOLD_PREFIX)})


class _Replaying:
    """What an entry repeats beside the Samples that it learns; nothing for an entry without `replay`."""

    def __init__(
        self,
        config: TrainConfig,
        samples: Sequence[Sample],
        inputs: Mapping[str, Path],
        shelf: Shelf | None,
    ) -> None:
        self.config = config
        self.replay = config.replay if isinstance(config, SftConfig) else None
        repeated = _read(self.replay.samples, inputs) if self.replay else []
        self.samples = _learnable(repeated, self.replay.tasks if self.replay else {}, shelf, config.name)
        self.held_out_from = (*samples, *self.samples)
        if missing := set(_folds(self.samples)) - set(_folds(samples)):
            raise LeakError(
                f"{config.name}.replay.samples: they are split into folds ({', '.join(sorted(missing))}) that "
                f"{', '.join(config.samples)} do not have, so nothing says which of them is held out"
            )

    def beside(self, training: Sequence[Sample], fold: str | None) -> dict[str, Replayed]:
        """The argument of `train_one`, after the checks that what is learnt went through."""
        if self.replay is None:
            return {}
        repeated = training_samples(self.samples, fold)
        if self.replay.tasks:
            repeated = [sample for sample in repeated if sample.task in self.replay.tasks]
        if not repeated:
            raise UserError(
                f"{self.config.name}.replay: {', '.join(self.replay.samples)} hold no training Sample of the tasks "
                "asked for"
            )
        _refuse_leaks((*training, *repeated), self.held_out_from, fold)
        chosen = replayed(repeated, len(training), self.replay, self.config.seed)
        style = self.replay.style or self.config.style
        return {"replayed": Replayed(chosen, style, self.replay.augment)}


def _refuse_leaks(training: Sequence[Sample], samples: Iterable[Sample], fold: str | None) -> None:
    refuse_held_out(training, fold)
    refuse_shared_groups(training, (sample for sample in samples if sample.split in (TEST_SPLIT, fold)))


def _training_set(config: TrainConfig, samples: Sequence[Sample], fold: str | None) -> list[Sample]:
    """The Samples to learn from, after every check that none of them is held out."""
    training = training_samples(samples, fold)
    if config.tasks:
        training = [sample for sample in training if sample.task in config.tasks]
    if not training:
        raise UserError(
            f"{config.name}: {', '.join(config.samples)} hold no training Sample of the tasks asked for"
        )
    _refuse_leaks(training, samples, fold)
    return mix(training, config.tasks, config.seed)


def load_trainable(
    config: TrainConfig, base: str, shelf: Shelf | None = None, training: Sequence[Sample] = ()
) -> tuple[Any, Any]:
    """(model, processor) with frozen what the recipe does not name, in the precision that training needs.

    Full training keeps the weights in float32 (bf16 autocast on a GPU): AdamW loses small steps on bf16 weights. With a
    `shelf` the model reads its slides; with `slide_tokens` it gets what it needs for that, normalised to the slides of
    the `training` Samples.
    """
    load_card(base)  # a folder that has none is refused now, not after the training
    frozen_in_bf16 = config.adapts and default_device().type != "cpu"
    model, processor = load_model(base, dtype="bfloat16" if frozen_in_bf16 else "float32")
    if mixture_of(model) is not None:
        raise UserError(
            f"{config.name}.model: {base} is a mixture of experts, and nothing trains or reinforces one: train and "
            "reinforce each expert's stage first, then put them together by a stage `experts`"
        )
    _resize(config, processor.image_processor.size)
    if shelf is not None:
        _teach_slides(config, model, shelf, training)
    ticket_form(model, processor)  # refuses a processor that would resize the slides' tickets
    freeze_the_rest(config, model)
    if os.environ.get("RANK", "0") == "0":  # one line, not one of each process
        tqdm.write(what_learns(config, count_trainable(model)))
    return model, processor


def _resize(config: TrainConfig, size: MutableMapping[str, int]) -> None:
    """Write the entry's areas into a processor, which calls them edges. Raises UserError where they cross."""
    if config.min_pixels is not None:
        size["shortest_edge"] = config.min_pixels
    if config.max_pixels is not None:
        size["longest_edge"] = config.max_pixels
    if size["shortest_edge"] > size["longest_edge"]:
        raise UserError(
            f"{config.name}: pictures would be enlarged to {size['shortest_edge']} pixels (min_pixels) and be shown "
            f"with {size['longest_edge']} at most (max_pixels); set both, the first below the second"
        )


def _teach_slides(config: TrainConfig, model: Any, shelf: Shelf, training: Sequence[Sample]) -> None:
    if config.slide_tokens is not None:
        if reads_slides(model):
            raise UserError(f"{config.name}.slide_tokens: the model reads slides already; remove the key")
        slides = {image.slide for sample in training for image in sample.images if image.slide is not None}
        statistics = tile_statistics(shelf, slides)
        attach_slides(model, config.slide_tokens, shelf.kind, config.seed, statistics=statistics)
    give_shelf(model, shelf)


def finish(
    trainer: Any,
    config: TrainConfig,
    base: str,
    training: Sequence[Sample],
    out: Path,
    curve: Mapping[str, str],
    num_replayed: int = 0,
) -> dict[str, Any]:
    """Save the model folder: weights, processor, curve, then the card; checkpoints go. Returns counts.

    `curve` maps the trainer's names of logged numbers to ours. The last `num_replayed` of `training` were replayed. Of
    several processes the first one writes.
    """
    trained = count_trainable(trainer.model)
    if config.lora is not None:
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model(str(out))
    if trainer.is_world_process_zero():
        trainer.processing_class.save_pretrained(out)
        write_jsonl(_curve(trainer.state.log_history, curve), out / TRAINING_LOG)
        (out / "training_args.bin").unlink(missing_ok=True)  # a pickle; the manifest holds the same settings
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        num_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        card = _card(config, base, trainer.processing_class, training, num_parameters)
        write_card(card.model_copy(update={"num_replayed": num_replayed}), out)
    counts = (
        {"trained_on": len(training), "replayed": num_replayed}
        if num_replayed
        else {"trained_on": len(training)}
    )
    return {**counts, "steps": trainer.state.global_step, "modules": trained}


class HasEpoch(Protocol):
    epoch: int


class FollowEpoch(TrainerCallback):
    """Tells the rows which epoch it is, so that templates, turns and orders are new in each."""

    def __init__(self, rows: HasEpoch) -> None:
        self.rows = rows

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.rows.epoch = int(state.epoch or 0)


class Progress(TrainerCallback):
    """One bar for the run, with the latest value of one logged number."""

    def __init__(self, config: TrainConfig, out: Path, shown: str = "loss") -> None:
        self.name = f"{config.name} {out.name}" if out.name.startswith(FOLD_PREFIX) else config.name
        self.shown = shown

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.name,
            unit="step",
            leave=False,
            disable=not state.is_world_process_zero,
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.update()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **kwargs: Any,
    ) -> None:
        if logs and self.shown in logs:
            self.bar.set_postfix({self.shown: f"{float(logs[self.shown]):.3f}"})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.close()


def quiet(trainer: Any) -> None:
    """Take away the callbacks that print a line for every logged step; the bar and training.jsonl stay."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose trainer state, the file written last, can be read; None to start afresh."""
    checkpoints = sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True
    )
    for checkpoint in checkpoints:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            continue  # the process was killed while it wrote this one
        return str(checkpoint)
    return None


def _curve(history: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, float]]:
    """The named numbers of the trainer's log, a line for each logged step."""
    return [
        {
            "step": entry["step"],
            **{ours: float(entry[theirs]) for theirs, ours in names.items() if theirs in entry},
        }
        for entry in history
        if "loss" in entry
    ]


def _card(
    config: TrainConfig,
    base: str,
    processor: Any,
    training: Sequence[Sample],
    num_parameters: int,
) -> ModelCard:
    card = load_card(base)
    size = processor.image_processor.size  # areas in pixels, for both Qwen families
    tasks = tuple(sorted({sample.task for sample in training}))
    pictures = [image for sample in training for image in sample.images if image.slide is None]
    mpps = [image.mpp for image in pictures if image.mpp is not None]
    return ModelCard(
        name=config.name,
        base=card.name if card else base,
        style=config.style,
        tasks=tasks,
        templates={task: tuple(template.name for template in training_templates(task)) for task in tasks},
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
        mpp_range=(min(mpps), max(mpps)) if mpps else None,
        trained_on=tuple(sorted({sample.origin.source for sample in training})),
        num_train_samples=len(training),
        num_parameters=num_parameters,
        seed=config.seed,
        pathloom_version=__version__,
    )
