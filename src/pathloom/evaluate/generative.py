"""Stage `evaluate`: a model answers benchmarks in its own words; the words are parsed, graded and measured.

Every completion is appended to predictions.jsonl as it comes, so a killed run goes on where it stopped.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pathloom.benchmarks import Benchmark, find_benchmark
from pathloom.card import ModelCard
from pathloom.evaluate.config import EvaluateConfig
from pathloom.evaluate.measure import Prediction, write_measurements
from pathloom.evaluate.report_records import Board
from pathloom.evaluate.routing import keep_board, routing_board
from pathloom.evaluate.select import (
    NO_CONTROL,
    SHUFFLED_ROUTES,
    apply_control,
    held_out,
    is_held_out,
    wrong_route,
)
from pathloom.masks import Segmenter
from pathloom.models.experts import routed
from pathloom.models.experts_config import Route, route_of
from pathloom.models.load import default_device, load_card, load_model
from pathloom.models.segment import load_segmenter
from pathloom.models.slide import give_shelf
from pathloom.models.slide_ticket import picture_loader
from pathloom.schema import FOLD_PREFIX, Sample
from pathloom.slides.features import Shelf, lacks_features, open_shelf
from pathloom.stage import UserError, read_jsonl
from pathloom.store import read_samples
from pathloom.tasks import find_task
from pathloom.tasks.task import Prompt, Style

PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class Request:
    """One question to put: the Sample as it is graded and as the control asks it, and the route that is told."""

    benchmark: Benchmark
    control: str
    sample: Sample
    asked: Sample
    told: Route | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.benchmark.name, self.control, self.sample.id)

    @property
    def route(self) -> Route:
        return self.told or route_of(self.asked)

    def prompt(self, style: Style) -> Prompt:
        task = find_task(self.benchmark.task)
        return task.render(self.asked, self.benchmark.pinned_template(), style)


def run_evaluate(config: EvaluateConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Answer, grade and measure; writes predictions.jsonl and metrics.json, returns counts for the manifest."""
    samples = [sample for name in config.samples for sample in read_samples(inputs[name])]
    shelf = open_shelf(config.slides, inputs)
    usable = [sample for sample in samples if not _cannot_be_asked(config, sample, shelf)]
    requests = _requests(config, usable)
    done = _repair(out / PREDICTIONS)
    parts = _by_fold(config.model.locate(inputs), requests)
    notes = _contract_notes(parts)
    if len(usable) < len(samples):
        notes["without_slide_features"] = len(samples) - len(usable)
    with tqdm(total=len(requests), initial=len(done), desc=config.name, unit="answer", leave=False) as bar:
        for folder, part in parts:
            missing = [request for request in part if request.key not in done]
            if not missing:
                continue
            card = load_card(folder)
            model, processor = load_model(folder)
            if shelf is not None:
                give_shelf(model, shelf)
            model.to(default_device()).eval()
            style: Style = config.style or (card.style if card else "cot")
            keep_board(_routing(config, model, processor, part, style, folder), out)
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
    segment = _segmenter(config)
    predictions = [_grade(request, completions[request.key], segment) for request in requests]
    write_measurements(config.name, predictions, out, num_resamples=config.num_resamples, seed=config.seed)
    return {"answers": len(requests), "unparsed": sum(p.score.answer is None for p in predictions), **notes}


def _cannot_be_asked(config: EvaluateConfig, sample: Sample, shelf: Shelf | None) -> bool:
    """Whether a held-out Sample of the benchmarks is about a slide that could not be encoded. Raises UserError."""
    asked = is_held_out(sample) and any(find_benchmark(name).asks(sample) for name in config.benchmarks)
    return asked and lacks_features(sample, shelf, config.name)


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
    return _with_wrong_routes(config, requests)


def _with_wrong_routes(config: EvaluateConfig, requests: Sequence[Request]) -> list[Request]:
    """The requests, those of the control `shuffled_routes` with the route of another row of this entry."""
    routes = Counter(request.route for request in requests if request.control == NO_CONTROL)
    if SHUFFLED_ROUTES in config.controls and len(routes) < 2:
        raise UserError(
            f"{config.name}.controls: shuffled_routes needs benchmarks of two scales or tasks in one entry; all rows "
            f"are {next(iter(routes))}"
        )
    return [
        replace(request, told=wrong_route(request.sample, routes, config.seed))
        if request.control == SHUFFLED_ROUTES
        else request
        for request in requests
    ]


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
    pictures = [image for image in request.asked.images if image.slide is None]
    return any(image.mpp is not None and not low <= image.mpp <= high for image in pictures)


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
    batch = _encode(model, processor, requests, style)
    with routed(model, [request.route for request in requests]):
        tokens = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
    return [
        text.strip()
        for text in processor.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    ]


def _encode(model: Any, processor: Any, requests: Sequence[Request], style: Style) -> Any:
    """The model's inputs for a batch, padded on the left."""
    texts = [render_text(processor, request.prompt(style)) for request in requests]
    load = picture_loader(model, processor)
    pictures = [[load(image) for image in request.asked.images] for request in requests]
    return processor(
        text=texts,
        images=pictures if any(pictures) else None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        add_special_tokens=False,
    ).to(model.device)


def _routing(
    config: EvaluateConfig, model: Any, processor: Any, part: Sequence[Request], style: Style, folder: str
) -> Board | None:
    """Who answers what in a mixture of experts; asked before the answers, so that a killed run has it too."""
    asked: dict[Route, list[Request]] = {}
    for request in part:
        if request.control == NO_CONTROL:
            asked.setdefault(request.route, []).append(request)
    fold = Path(folder).name
    title = f"Routing of {config.name}" + (f", {fold}" if fold.startswith(FOLD_PREFIX) else "")
    return routing_board(
        config.name, model, asked, lambda some: _encode(model, processor, some, style), title=title
    )


def render_text(processor: Any, prompt: Prompt) -> str:
    """The prompt as the model's chat template writes it: the same bytes that training saw."""
    return str(processor.apply_chat_template(prompt.messages(), add_generation_prompt=True, tokenize=False))


def _row(request: Request, completion: str) -> dict[str, str]:
    benchmark, control, sample_id = request.key
    return {"benchmark": benchmark, "control": control, "sample_id": sample_id, "completion": completion}


def _segmenter(config: EvaluateConfig) -> Segmenter | None:
    """What draws the masks; None where no benchmark is graded by any."""
    draws = any(find_task(find_benchmark(name).task).grade_drawn for name in config.benchmarks)
    return load_segmenter(config.segmenter) if draws else None


def _grade(request: Request, completion: str, segment: Segmenter | None) -> Prediction:
    task = find_task(request.benchmark.task)
    score = task.score(request.sample, completion, request.benchmark.pinned_template(), segment=segment)
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
