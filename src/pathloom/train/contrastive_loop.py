"""open_clip's own training loop, driven in legs of `save_steps` steps with a checkpoint after each.

A leg is what `open_clip_train.train.train_one_epoch` takes for an epoch: losses, schedules, autocast, accumulation and
clipping are its code. What is added: batches from elsewhere, the step at which a leg begins, the curve, checkpoints.
"""

import math
import os
import pickle
import random
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import create_loss
from open_clip_train.distributed import init_distributed_device
from open_clip_train.params import parse_args
from open_clip_train.scheduler import const_lr, cosine_lr
from open_clip_train.train import train_one_epoch
from torch import Tensor, nn
from tqdm import tqdm

from pathloom.models.clip import TrainableClip, quiet_logging, seed_all
from pathloom.models.clip_fast import quicken
from pathloom.models.load import default_device
from pathloom.stage import UserError
from pathloom.train.contrastive_config import ContrastiveConfig
from pathloom.train.contrastive_data import Batch, Seen, normalised, training_transform

CHECKPOINTS = "checkpoints"
KEPT_CHECKPOINTS = 2


def open_clip_args(config: ContrastiveConfig) -> Any:
    """open_clip's own namespace of settings for this entry; starts the process group under torchrun."""
    device = str(default_device())
    precision = config.precision or ("fp32" if device == "cpu" else "amp_bf16")
    args = parse_args(["--model", config.kind, "--precision", precision, "--device", device])
    args.lr, args.wd, args.warmup = config.learning_rate, config.weight_decay, config.warmup_steps
    args.beta1, args.beta2, args.eps = config.beta1, config.beta2, config.eps
    args.grad_clip_norm = config.grad_clip
    args.lr_scheduler = {"cosine": "cosine", "constant": "const"}[config.schedule]
    args.accum_freq = config.accumulate
    args.siglip = config.loss == "siglip"
    args.seed = config.seed
    args.log_every_n_steps = config.log_steps
    # Each process takes the loss of its own rows against all: the mean over processes has the exact gradient.
    args.local_loss = args.gather_with_grad = True
    args.distill = args.wandb = False
    if device != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32, as open_clip_train.main sets it
    args.distributed, args.rank, args.local_rank, args.world_size = False, 0, 0, 1
    if under_torchrun():
        init_distributed_device(args)
    if config.batch_size % (args.world_size * config.accumulate):
        raise UserError(
            f"{config.name}.batch_size: {config.batch_size} is no multiple of processes x accumulate, "
            f"{args.world_size} x {config.accumulate}"
        )
    args.batch_size = config.batch_size // (args.world_size * config.accumulate)
    return args


def under_torchrun() -> bool:
    """open_clip also takes a batch system's variables for this, though one process runs there."""
    return "TORCHELASTIC_RUN_ID" in os.environ


class MeanOverProcesses(nn.Module):
    """A loss whose value is the mean over all processes, with the gradient of this process's own part.

    DDP takes the mean of the gradients, so training is the same, but the value that is logged is that of the step.
    """

    def __init__(self, loss: nn.Module, world_size: int) -> None:
        super().__init__()
        self.loss = loss
        self.world_size = world_size

    def forward(self, **features: Any) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.loss(**features)
        for name, loss in losses.items():
            mean = loss.detach().clone()
            torch.distributed.all_reduce(mean)
            losses[name] = loss + (mean / self.world_size - loss.detach())
        return losses


def build_optimizer(model: nn.Module, args: Any) -> torch.optim.AdamW:
    """AdamW with the two groups of open_clip_train.main: no decay for gains, biases and the logit scale."""
    named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    undecayed = [one for name, one in named if _is_gain_or_bias(name, one)]
    decayed = [one for name, one in named if not _is_gain_or_bias(name, one)]
    return torch.optim.AdamW(
        [{"params": undecayed, "weight_decay": 0.0}, {"params": decayed, "weight_decay": args.wd}],
        lr=args.lr,
        betas=(args.beta1, args.beta2),
        eps=args.eps,
        fused=True,  # the same steps up to rounding; 9 of 650 ms a step of clip-nano on a CPU (speed/)
    )


def _is_gain_or_bias(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


class Curve:
    """Stands where open_clip expects a tensorboard writer: keeps one row a logged step and stops a lost run."""

    def __init__(self, config: ContrastiveConfig) -> None:
        self.config = config
        self.rows: list[dict[str, float]] = []
        self.first_step = 0
        self._values: dict[str, float] = {}
        self._since = (0, time.perf_counter())

    def begin_leg(self, step: int) -> None:
        """Steps are counted, and time is taken, from here on."""
        self.first_step = step
        self._since = (step, time.perf_counter())

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """train_one_epoch names the loss last."""
        self._values[name.removeprefix("train/")] = value
        if name != "train/loss":
            return
        done = self.first_step + step + 1
        if not math.isfinite(value):
            raise lost(self.config, done)
        before, then = self._since
        self._since = (done, time.perf_counter())
        seconds = self._since[1] - then
        self.rows.append(
            {
                "step": done,
                "loss": value,
                "logit_scale": self._values["scale"],
                "learning_rate": self._values["lr"],
                "images_per_second": round((done - before) * self.config.batch_size / seconds, 1),
            }
        )


def lost(config: ContrastiveConfig, step: int) -> UserError:
    """What to tell of a run whose loss or weights are no finite numbers after `step` steps."""
    return UserError(
        f"{config.name}: the loss is no finite number any more at step {step}: lower learning_rate, "
        "raise warmup_steps or set grad_clip (1.0 is common)"
    )


@dataclass
class Leg:
    """What train_one_epoch takes for its data: `num_batches` parts of steps, made ready for the model."""

    parts: Iterator[Batch]
    num_batches: int
    num_samples: int
    transform: Any
    device: torch.device
    seen: Seen
    bar: Any
    accumulate: int

    @property
    def dataloader(self) -> "Leg":
        return self

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the order has its epochs itself."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(islice(self.parts, self.num_batches), start=1):
            self.seen.merge([batch.seen])
            yield normalised(batch.pixels.to(self.device, non_blocking=True), self.transform), batch.tokens
            if number % self.accumulate == 0:
                self.bar.update()


class Training:
    """Model, optimizer, schedule and where they stand; all of it comes back from a checkpoint."""

    def __init__(
        self, config: ContrastiveConfig, args: Any, clip: TrainableClip, num_steps: int, out: Path
    ) -> None:
        self.config, self.args, self.out, self.num_steps = config, args, out, num_steps
        self.transform = training_transform(clip, config.crop_scale)
        self.device = torch.device(args.device)
        self.bare: nn.Module = clip.model
        seed_all(config.seed + args.rank)
        if config.lock_image:
            clip.model.lock_image_tower()
        if config.grad_checkpointing:
            clip.model.set_grad_checkpointing()
        if self.device.type == "cpu":
            quicken(self.bare)
        self.model: nn.Module = self.bare
        if args.distributed:
            devices = [self.device] if self.device.type == "cuda" else None
            self.model = nn.parallel.DistributedDataParallel(self.bare, device_ids=devices)
        self.optimizer = build_optimizer(self.model, args)
        schedule = {"cosine": cosine_lr, "const": const_lr}[args.lr_scheduler]
        self.schedule = schedule(self.optimizer, args.lr, args.warmup, num_steps)
        self.loss: nn.Module = create_loss(args)
        if args.distributed:
            self.loss = MeanOverProcesses(self.loss, args.world_size)
        self.step = 0
        self.seen = Seen()
        self.curve = Curve(config)

    def run(self, parts: Iterator[Batch]) -> None:
        """From `self.step` to the end; `parts` are those from `self.step` on. Raises UserError for a lost run."""
        name, hidden = self.config.name, self.args.rank != 0
        with tqdm(
            total=self.num_steps, initial=self.step, desc=name, unit="step", leave=False, disable=hidden
        ) as bar:
            while self.step < self.num_steps:
                # a leg ends at a multiple of save_steps, wherever the run was taken up
                end = min(self.num_steps, (self.step // self.config.save_steps + 1) * self.config.save_steps)
                self._leg(parts, end - self.step, bar)
                self.step = end
                self._gather_seen()
                if end < self.num_steps:
                    self.save()

    def _leg(self, parts: Iterator[Batch], steps: int, bar: Any) -> None:
        first = self.step
        accumulate = self.config.accumulate
        data = Leg(
            parts,
            steps * accumulate,
            steps * accumulate * self.args.batch_size * self.args.world_size,
            self.transform,
            self.device,
            self.seen,
            bar,
            accumulate,
        )
        self.curve.begin_leg(first)
        writer = self.curve if self.args.rank == 0 else None
        with quiet_logging(), warnings.catch_warnings():
            # torch 2.13 has a newer name for what open_clip 3.3 gathers features with
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"open_clip\.loss")
            train_one_epoch(
                model=self.model,
                data={"train": data},
                loss=self.loss,
                epoch=0,
                optimizer=self.optimizer,
                scaler=None,
                scheduler=lambda step: self.schedule(first + step),
                dist_model=None,
                args=self.args,
                tb_writer=writer,
            )
        norms = torch.stack([one.detach().float().norm() for one in self.bare.parameters()])
        if not bool(norms.isfinite().all()):  # the last step's gradient can be lost after its loss was not
            raise lost(self.config, first + steps)

    def _gather_seen(self) -> None:
        if self.args.distributed:
            everyone: list[Any] = [None] * self.args.world_size
            torch.distributed.all_gather_object(everyone, self.seen)
            self.seen.merge(everyone)

    def save(self) -> None:
        """A checkpoint under another name, then renamed; the older ones but one go. The first process writes."""
        states: list[Any] = [random_state()]
        if self.args.distributed:
            states = [None] * self.args.world_size
            torch.distributed.all_gather_object(states, random_state())
        if self.args.rank == 0:
            path = self.out / CHECKPOINTS / f"step-{self.step:09d}.pt"
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                torch.save({**self._state(), "random": states}, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            for old in saved_checkpoints(self.out)[KEPT_CHECKPOINTS:]:
                old.unlink()
        if self.args.distributed:
            torch.distributed.barrier()

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curve": self.curve.rows,
            "unread": self.seen.unread,
            "cut": sorted(self.seen.cut),
        }

    def resume(self) -> None:
        """Take up the newest whole checkpoint, if there is one."""
        for path in saved_checkpoints(self.out):
            try:
                # weights_only: nothing but tensors and plain values is loaded, so no code of the file can run
                state = torch.load(path, map_location=self.device, weights_only=True)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
                continue  # the one before it is kept for this
            self.bare.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self.curve.rows = state["curve"]
            self.seen = Seen(state["unread"], set(state["cut"]))
            if self.args.rank < len(state["random"]):
                restore_random_state(state["random"][self.args.rank])
            return


def saved_checkpoints(out: Path) -> list[Path]:
    """Newest first."""
    return sorted((out / CHECKPOINTS).glob("step-*.pt"), reverse=True)


def random_state() -> dict[str, Any]:
    """The process's random numbers, of types that torch.load(weights_only=True) takes."""
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (kind, [int(key) for key in keys], int(place), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    random.setstate(_as_tuples(state["python"]))


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, Sequence) else value
