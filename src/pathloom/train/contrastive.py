"""Stage `contrastive`: CLIP or SigLIP training of an open_clip model on WebDataset shards, by open_clip's own loop.

The folder that it leaves is one that open_clip opens as local-dir. Run as a program this file is one of the processes
that torchrun starts for an entry with `processes`.
"""

import ctypes
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from tqdm import tqdm

from pathloom import __version__
from pathloom.card import CARD_FILE, EncoderCard, write_card
from pathloom.models.clip import LOCAL, TrainableClip, check_clip, open_trainable, save_clip, write_preset
from pathloom.models.clip_presets import find_clip_preset
from pathloom.models.clip_text import shorten_texts
from pathloom.schema import Drop
from pathloom.stage import UserError, write_json, write_jsonl
from pathloom.train.contrastive_config import ContrastiveConfig
from pathloom.train.contrastive_data import (
    Collate,
    Corpus,
    PairOrder,
    Pairs,
    Places,
    read_batches,
    read_corpus,
)
from pathloom.train.contrastive_loop import CHECKPOINTS, Training, open_clip_args, under_torchrun

TRAINING_LOG = "training.jsonl"
_STEP = "train.contrastive"
_START = "start"
_ENTRY, _COUNTS, _ERROR = "entry.json", "counts.json", "error.txt"


def run_contrastive(config: ContrastiveConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one model into `out`; returns counts for the manifest. Starts torchrun for `processes` above one, unless
    this process is one that torchrun has started.
    """
    if config.processes > 1 and not under_torchrun():
        return _run_processes(config, inputs, out)
    counts = _train(config, inputs, out)
    if int(os.environ.get("RANK", "0")) == 0:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return counts


def _train(config: ContrastiveConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """One process's part of the training. The first one saves the model; all return the same counts but `loss`."""
    args = open_clip_args(config)
    with closing(read_corpus(config.name, config.shards, inputs, quiet=args.rank != 0)) as corpus:
        base, card = _base(config, inputs)
        clip = open_trainable(
            _locate(config, inputs, out, args),
            config.model.pretrained,
            siglip=args.siglip,
            precision=args.precision,
            device=args.device,
            seed=config.seed,
        )
        order = PairOrder(corpus, config.weights, config.seed)
        num_steps = config.max_steps or math.ceil(
            (config.epochs or 0) * order.epoch_length / config.batch_size
        )
        if order.epoch_length < config.batch_size:
            raise UserError(
                f"{config.name}.batch_size: {config.batch_size}, but an epoch has {order.epoch_length} pairs, so that "
                "a pair would stand in a step twice, against itself; lower it, or give more pairs or larger weights"
            )
        collate = Collate(clip, shorten_texts(clip.model))
        training = Training(config, args, clip, num_steps, out)
        training.resume()
        places = Places(
            config.batch_size, config.accumulate, args.rank, args.world_size, training.step, num_steps
        )
        pairs = Pairs(corpus, order, clip, config)
        training.run(read_batches(pairs, places, collate, config.workers))
        return _finish(training, clip, corpus, base, card)


def _locate(config: ContrastiveConfig, inputs: Mapping[str, Path], out: Path, args: Any) -> str:
    """The model to start from as open_clip names it; a preset's folder is written first."""
    ref = config.model
    if ref.preset is None:
        name = ref.open_clip or f"{LOCAL}{inputs[ref.stage] if ref.stage else ref.folder}"
        check_clip(name, ref.pretrained)
        return name
    folder = out / CHECKPOINTS / _START
    if args.rank == 0:
        write_preset(find_clip_preset(ref.preset), _captions(config, inputs), folder)
    if args.distributed:
        torch.distributed.barrier()
    return f"{LOCAL}{folder}"


def _captions(config: ContrastiveConfig, inputs: Mapping[str, Path]) -> Iterator[str]:
    with closing(read_corpus(config.name, (*config.shards, *config.words_of), inputs)) as corpus:
        for pair in tqdm(range(len(corpus)), desc=f"{config.name} tokenizer", unit="caption", leave=False):
            yield corpus.caption(pair)


def _finish(
    training: Training, clip: TrainableClip, corpus: Corpus, base: str, base_card: EncoderCard | None
) -> dict[str, Any]:
    """Write model, curve, drops and card; returns counts."""
    config, out, seen = training.config, training.out, training.seen
    drops = [
        Drop(sample_id=f"{stage}/{tar.path.name}/{key}", step=_STEP, reason=reason, detail=str(tar.path))
        for stage, tar in zip(corpus.stage_of, corpus.tars, strict=True)
        for key, reason in tar.faults
    ]
    for pair, told in sorted(seen.unread.items()):
        reason, detail = told.split(": ", 1)
        drops.append(Drop(sample_id=corpus.name(pair), step=_STEP, reason=reason, detail=detail))
    num_parameters = sum(one.numel() for one in training.bare.parameters())
    if training.args.rank == 0:
        save_clip(clip, out)
        write_jsonl(training.curve.rows, out / TRAINING_LOG)
        if drops:
            (out / "drops").mkdir(exist_ok=True)
            write_jsonl((drop.model_dump() for drop in drops), out / "drops" / "00000.jsonl")
        sources, licences = _provenance(config, corpus, base_card)
        write_card(
            EncoderCard(
                name=config.name,
                base=base,
                loss=config.loss,
                image_px=clip.image_px,
                context_length=clip.context_length,
                embed_dim=int(clip.model_cfg["embed_dim"]),
                trained_on=sources,
                licences=licences,
                num_pairs=len(corpus),
                pairs_seen=training.num_steps * config.batch_size,
                steps=training.num_steps,
                num_parameters=num_parameters,
                seed=config.seed,
                pathloom_version=__version__,
            ),
            out,
        )
    return {
        "pairs": len(corpus),
        "pairs_by_stage": {
            stage: sum(len(tar) for tar, of in zip(corpus.tars, corpus.stage_of, strict=True) if of == stage)
            for stage in config.shards
        },
        "steps": training.num_steps,
        "pairs_seen": training.num_steps * config.batch_size,
        "captions_cut": len(seen.cut),
        "drops": dict(sorted(Counter(drop.reason for drop in drops).items())),
        "num_parameters": num_parameters,
        "loss": training.curve.rows[-1]["loss"] if training.curve.rows else None,
    }


def _base(config: ContrastiveConfig, inputs: Mapping[str, Path]) -> tuple[str, EncoderCard | None]:
    """Where the weights came from, in names without paths of this machine, and the card beside them if there is one.

    Raises UserError for a card that is none.
    """
    ref = config.model
    if ref.preset is not None:
        return ref.preset, None
    if ref.open_clip is not None:
        return f"{ref.open_clip}{f'@{Path(ref.pretrained).name}' if ref.pretrained else ''}", None
    folder = inputs[ref.stage] if ref.stage else Path(ref.folder or "")
    path = folder / CARD_FILE
    if not path.is_file():
        return f"{LOCAL}{folder.name}", None
    try:
        card = EncoderCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: is no card of a CLIP model ({error}); mend or remove it") from error
    return f"{card.base} > {card.name}", card


def _provenance(
    config: ContrastiveConfig, corpus: Corpus, base: EncoderCard | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(sources, licences), sorted: what the pairs' own facts name and what the base had learnt from.

    Pairs without facts, or with such as are no JSON object, name their stage.
    """
    sources = set(base.trained_on if base else ())
    licences = set(base.licences if base else ())
    for pair in tqdm(range(len(corpus)), desc=f"{config.name} sources", unit="pair", leave=False):
        try:
            facts = json.loads(corpus.facts(pair) or b"{}")
        except (ValueError, RecursionError):
            facts = {}
        facts = facts if isinstance(facts, dict) else {}
        sources.add(str(facts.get("source") or corpus.stage_of[corpus.place(pair)[0]]))
        if facts.get("licence"):
            licences.add(str(facts["licence"]))
    return tuple(sorted(sources)), tuple(sorted(licences))


def _run_processes(config: ContrastiveConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """The same as `processes` processes under torchrun, each a program of this file. Raises what they raise."""
    gpus = torch.cuda.device_count()
    if 0 < gpus < config.processes:
        raise UserError(f"{config.name}.processes: {config.processes}, but this machine has {gpus} GPU")
    work = out / CHECKPOINTS
    work.mkdir(exist_ok=True)
    (work / _ERROR).unlink(missing_ok=True)
    entry = {
        "config": config.model_dump(mode="json"),
        "inputs": {name: str(folder) for name, folder in inputs.items()},
        "out": str(out),
    }
    write_json(entry, work / _ENTRY)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(config.processes), "-m", __name__, str(work / _ENTRY)),
    ]
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["OMP_NUM_THREADS"] = "1"
    ended = subprocess.run(command, env=environment, check=False, preexec_fn=_end_with_parent)
    if (work / _ERROR).is_file():
        raise UserError((work / _ERROR).read_text(encoding="utf-8"))
    if ended.returncode:
        raise RuntimeError(
            f"{config.name}: torchrun ended with status {ended.returncode}; see its messages above"
        )
    counts: dict[str, Any] = json.loads((work / _COUNTS).read_text(encoding="utf-8"))
    shutil.rmtree(work)
    return counts


def _end_with_parent() -> None:
    """Let Linux end torchrun with this process, however it ends: two runs must not write one folder."""
    if sys.platform == "linux":
        _PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(entry_file: str) -> None:
    """One process of several: the entry that `_run_processes` wrote, counts and errors beside it."""
    path = Path(entry_file)
    entry = json.loads(path.read_text(encoding="utf-8"))
    inputs = {name: Path(folder) for name, folder in entry["inputs"].items()}
    try:
        counts = _train(ContrastiveConfig.model_validate(entry["config"]), inputs, Path(entry["out"]))
    except UserError as error:
        (path.parent / _ERROR).write_text(str(error), encoding="utf-8")
        sys.exit(1)
    if int(os.environ["RANK"]) == 0:
        write_json(counts, path.parent / _COUNTS)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
