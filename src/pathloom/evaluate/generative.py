"""Stage `evaluate`: a model answers benchmarks in its own words; the words are parsed, graded and measured.

Every completion is appended to predictions.jsonl as it comes, so a killed run goes on where it stopped.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pathloom.benchmarks import Benchmark, find_benchmark
from pathloom.card import ModelCard
from pathloom.evaluate.config import EvaluateConfig
from pathloom.evaluate.measure import Prediction, write_measurements
from pathloom.evaluate.select import NO_CONTROL, apply_control, held_out
from pathloom.images import load_pixels
from pathloom.models.load import default_device, load_card, load_model
from pathloom.schema import FOLD_PREFIX, Sample
from pathloom.stage import UserError, read_jsonl
from pathloom.store import read_samples
from pathloom.tasks import find_task
from pathloom.tasks.task import Prompt, Style

PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class Request:
    """One question to put: the Sample as it is graded and as the control asks it."""

    benchmark: Benchmark
    control: str
    sample: Sample
    asked: Sample

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.benchmark.name, self.control, self.sample.id)

    def prompt(self, style: Style) -> Prompt:
        task = find_task(self.benchmark.task)
        return task.render(self.asked, self.benchmark.pinned_template(), style)


def run_evaluate(config: EvaluateConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Answer, grade and measure; writes predictions.jsonl and metrics.json, returns counts for the manifest."""
    samples = [sample for name in config.samples for sample in read_samples(inputs[name])]
    requests = _requests(config, samples)
    done = _repair(out / PREDICTIONS)
    parts = _by_fold(config.model.locate(inputs), requests)
    notes = _contract_notes(parts)
    with tqdm(total=len(requests), initial=len(done), desc=config.name, unit="answer", leave=False) as bar:
        for folder, part in parts:
            missing = [request for request in part if request.key not in done]
            if not missing:
                continue
            card = load_card(folder)
            model, processor = load_model(folder)
            model.to(default_device()).eval()
            style: Style = config.style or (card.style if card else "cot")
            for batch in _batches(missing, config.batch_size):
                texts = generate(model, processor, batch, style, config.max_new_tokens)
                _append(
                    out / PREDICTIONS,
                    [_row(request, text) for request, text in zip(batch, texts, strict=True)],
                )
                bar.update(len(batch))
    completions = {
        (row["benchmark"], row["control"], row["sample_id"]): row["completion"]
        for row in read_jsonl(out / PREDICTIONS)
    }
    predictions = [_grade(request, completions[request.key]) for request in requests]
    write_measurements(config.name, predictions, out, num_resamples=config.num_resamples, seed=config.seed)
    return {"answers": len(requests), "unparsed": sum(p.score.answer is None for p in predictions), **notes}


def _requests(config: EvaluateConfig, samples: Sequence[Sample]) -> list[Request]:
    requests = []
    for name in config.benchmarks:
        benchmark = find_benchmark(name)
        chosen = held_out(samples, benchmark, config.limit)
        if not chosen:
            raise UserError(
                f"{config.name}.benchmarks: {', '.join(config.samples)} hold no held-out Sample of {name} "
                f"(task {benchmark.task}, source {benchmark.source}"
                + (
                    f", stratum {benchmark.stratum}: a stage `benchmark` makes them)"
                    if benchmark.stratum
                    else ")"
                )
            )
        original = {sample.id: sample for sample in chosen}
        if len(original) < len(chosen):
            twice = next(key for key, n in Counter(sample.id for sample in chosen).items() if n > 1)
            raise UserError(
                f"{config.name}.samples: {', '.join(config.samples)} hold {twice} twice, so its answers could not be "
                "told apart; evaluate each of these stages by an entry of its own"
            )
        for control in (NO_CONTROL, *config.controls):
            for asked in apply_control(chosen, control, config.seed):
                graded = asked if control == "shuffled_options" else original[asked.id]
                requests.append(Request(benchmark, control, graded, asked))
    return requests


def _by_fold(location: str, requests: Sequence[Request]) -> list[tuple[str, list[Request]]]:
    """(model folder, its requests): one model for all, or each fold's model for the Samples it has not seen."""
    folds = (
        sorted(path.name for path in Path(location).glob(f"{FOLD_PREFIX}*"))
        if Path(location).is_dir()
        else []
    )
    if not folds:
        return [(location, list(requests))]
    strays = sorted({request.sample.split for request in requests} - set(folds))
    if strays:
        raise UserError(
            f"{location} holds one model for each of {', '.join(folds)}, but Samples of split {strays[0]} are asked: "
            "evaluate cross-validated models on the Samples they were validated with"
        )
    parts = [(fold, [request for request in requests if request.sample.split == fold]) for fold in folds]
    return [(str(Path(location) / fold), part) for fold, part in parts if part]


def _contract_notes(parts: Sequence[tuple[str, Sequence[Request]]]) -> dict[str, Any]:
    """What in the requests lies outside the models' cards; counted, because a number then means less."""
    seen: set[str] = set()
    outside = 0
    for folder, requests in parts:
        card = load_card(folder)
        if card is not None:
            seen |= {
                r.benchmark.name
                for r in requests
                if r.benchmark.template in card.templates.get(r.benchmark.task, ())
            }
            outside += sum(_is_outside(card, request) for request in requests)
    notes: dict[str, Any] = {}
    if seen:
        notes["template_seen_in_training"] = sorted(seen)
    if outside:
        notes["outside_mpp_range"] = outside
    return notes


def _is_outside(card: ModelCard, request: Request) -> bool:
    """Whether a picture's resolution lies outside the range that the model was trained in."""
    if card.mpp_range is None:
        return False
    low, high = card.mpp_range
    return any(image.mpp is not None and not low <= image.mpp <= high for image in request.asked.images)


def _batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[Request]]:
    """Runs of one benchmark and control, so that prompts of like length meet and pictures are all or none."""
    start = 0
    while start < len(requests):
        stop = start
        while (
            stop < len(requests)
            and stop - start < batch_size
            and requests[stop].key[:2] == requests[start].key[:2]
            and len(requests[stop].asked.images) == len(requests[start].asked.images)
        ):
            stop += 1
        yield list(requests[start:stop])
        start = stop


@torch.inference_mode()
def generate(
    model: Any, processor: Any, requests: Sequence[Request], style: Style, max_new_tokens: int
) -> list[str]:
    """Greedy completions of a batch, without the prompt and without special tokens."""
    texts = [render_text(processor, request.prompt(style)) for request in requests]
    pictures = [[load_pixels(image) for image in request.asked.images] for request in requests]
    batch = processor(
        text=texts,
        images=pictures if any(pictures) else None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        add_special_tokens=False,
    ).to(model.device)
    tokens = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
    return [
        text.strip()
        for text in processor.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    ]


def render_text(processor: Any, prompt: Prompt) -> str:
    """The prompt as the model's chat template writes it: the same bytes that training saw."""
    return str(processor.apply_chat_template(prompt.messages(), add_generation_prompt=True, tokenize=False))


def _row(request: Request, completion: str) -> dict[str, str]:
    benchmark, control, sample_id = request.key
    return {"benchmark": benchmark, "control": control, "sample_id": sample_id, "completion": completion}


def _grade(request: Request, completion: str) -> Prediction:
    task = find_task(request.benchmark.task)
    score = task.score(request.sample, completion, request.benchmark.pinned_template())
    return Prediction(request.benchmark.name, request.control, request.sample, completion, score)


def _append(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def _repair(path: Path) -> set[tuple[str, str, str]]:
    """Keys of the completions already there; a last line that a kill cut off is removed from the file."""
    if not path.is_file():
        path.touch()
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return {(row["benchmark"], row["control"], row["sample_id"]) for row in read_jsonl(path)}
