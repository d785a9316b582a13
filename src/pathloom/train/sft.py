"""Stage `sft`: supervised fine-tuning over TRL's SFTTrainer, full or LoRA, resumed from its last whole checkpoint."""

import dataclasses
import difflib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from pathloom import __version__
from pathloom.benchmarks import training_templates
from pathloom.card import CARD_FILE, ModelCard, write_card
from pathloom.models.load import default_device, load_card, load_model
from pathloom.schema import FOLD_PREFIX, Sample
from pathloom.stage import UserError, write_jsonl
from pathloom.store import read_samples
from pathloom.train.config import SftConfig
from pathloom.train.rows import Rows, mix, refuse_held_out, refuse_shared_groups, training_samples

CHECKPOINTS = "checkpoints"
TRAINING_LOG = "training.jsonl"


def check_trainer_block(config: SftConfig) -> None:
    """Raise UserError for a key or value that TRL's SFTConfig does not take."""
    known = {field.name: field.default for field in dataclasses.fields(TrlSftConfig) if field.init}
    for key, value in config.trainer.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; see TRL's SFTConfig"
            raise UserError(f"{config.name}.trainer.{key}: unknown key{hint}")
        if isinstance(known[key], int | float) and isinstance(value, str):
            raise UserError(
                f"{config.name}.trainer.{key}: {value!r} is text where a number or true/false stands"
            )
    try:
        _trainer_arguments(config, Path("unused"))
    except (TypeError, ValueError) as error:
        raise UserError(f"{config.name}.trainer: {error}") from error


def run_sft(config: SftConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one model into `out`, or one a fold into `out`/fold-k. Returns counts for the manifest."""
    samples = [sample for name in config.samples for sample in read_samples(inputs[name])]
    folds = sorted({sample.split for sample in samples if sample.split.startswith(FOLD_PREFIX)})
    if not folds:
        return _train_one(config, samples, None, inputs, out)
    counts = {}
    for fold in folds:
        folder = out / fold
        if not (folder / CARD_FILE).is_file():  # the card is written last: a fold that has one is finished
            folder.mkdir(exist_ok=True)
            _train_one(config, samples, fold, inputs, folder)
        counts[fold] = sum(sample.split == fold for sample in samples)
    return {"folds": counts}


def _train_one(
    config: SftConfig, samples: Sequence[Sample], fold: str | None, inputs: Mapping[str, Path], out: Path
) -> dict[str, Any]:
    training = training_samples(samples, fold)
    if config.tasks:
        training = [sample for sample in training if sample.task in config.tasks]
    if not training:
        raise UserError(
            f"{config.name}: {', '.join(config.samples)} hold no training Sample of the tasks asked for"
        )
    refuse_held_out(training, fold)
    refuse_shared_groups(training, (sample for sample in samples if sample.split in ("test", fold)))
    training = mix(training, config.tasks, config.seed)

    base = config.model.locate(inputs)
    if fold is not None and (Path(base) / fold).is_dir():
        base = str(Path(base) / fold)  # cross-validated before: each fold goes on from its own model
    # Full training keeps the weights in float32 (bf16 autocast on a GPU): AdamW loses small steps on bf16 weights.
    frozen_in_bf16 = config.lora is not None and default_device().type != "cpu"
    model, processor = load_model(base, dtype="bfloat16" if frozen_in_bf16 else "float32")
    rows = Rows(training, config.style, augment=config.augment, seed=config.seed)
    dataset = Dataset.from_dict({"row": list(range(len(training)))}).with_transform(rows)
    trainer = _Trainer(
        model=model,
        args=_trainer_arguments(config, out / CHECKPOINTS),
        train_dataset=dataset,
        processing_class=processor,
        peft_config=_lora(config),
        callbacks=[_FollowEpoch(rows), _Progress(config.name if fold is None else f"{config.name} {fold}")],
    )
    for callback in (ProgressCallback, PrinterCallback):  # they print a line for every logged step
        trainer.remove_callback(callback)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / CHECKPOINTS))
    if config.lora is not None:
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model(str(out))
    processor.save_pretrained(out)
    write_jsonl(_curve(trainer.state.log_history), out / TRAINING_LOG)
    (out / "training_args.bin").unlink(missing_ok=True)  # a pickle; the manifest holds the same settings
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    num_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    write_card(_card(config, base, processor, training, num_parameters), out)
    return {"trained_on": len(training), "steps": trainer.state.global_step}


class _Trainer(SFTTrainer):
    """TRL's trainer, whose checkpoints of a whole model come back when a run is resumed."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """transformers 5.23 looks here for the model's own tensor names, but save_pretrained has written the hub's.

        None of them match, which it only warns of, so training would go on from the base model's weights.
        """
        if self.is_fsdp_enabled or not any(Path(resume_from_checkpoint).glob("model*.safetensors")):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved, _ = load_model(resume_from_checkpoint, dtype="auto")
        (model or self.model).load_state_dict(saved.state_dict())


class _FollowEpoch(TrainerCallback):
    """Tells the rows which epoch it is, so that templates and turns are new in each."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.rows.epoch = int(state.epoch or 0)


class _Progress(TrainerCallback):
    """One bar for the run, with the latest loss."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc=self.name, unit="step", leave=False
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
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.close()


def _trainer_arguments(config: SftConfig, folder: Path) -> TrlSftConfig:
    """Our defaults under the recipe's trainer block. On a CPU TRL's own defaults (bf16, checkpointing) do not run."""
    on_cpu = default_device().type == "cpu"
    settings = {
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
        "max_length": None,  # truncation would cut a picture's tokens in two
        "remove_unused_columns": False,
    }
    return TrlSftConfig(**settings)


def _lora(config: SftConfig) -> LoraConfig | None:
    if config.lora is None:
        return None
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )


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


def _curve(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Step, loss and token accuracy of the trainer's log."""
    names = {"loss": "loss", "mean_token_accuracy": "token_accuracy", "learning_rate": "learning_rate"}
    return [
        {"step": entry["step"], **{ours: entry[theirs] for theirs, ours in names.items() if theirs in entry}}
        for entry in history
        if "loss" in entry
    ]


def _card(
    config: SftConfig, base: str, processor: Any, training: Sequence[Sample], num_parameters: int
) -> ModelCard:
    card = load_card(base)
    size = processor.image_processor.size  # areas in pixels, for both Qwen families
    tasks = tuple(sorted({sample.task for sample in training}))
    mpps = [image.mpp for sample in training for image in sample.images if image.mpp is not None]
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
