"""Stage `probe`: logistic regression on frozen features, on the same split and in the same table as the model.

It says what a plain encoder already knows; a vision-language model below it has not learnt to see. Of a slide it sees
the mean over its tiles: what the slide's tokens add is that they keep places apart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from pathloom.benchmarks import find_benchmark
from pathloom.evaluate.config import ProbeConfig
from pathloom.evaluate.measure import Prediction, write_measurements
from pathloom.evaluate.select import NO_CONTROL, held_out
from pathloom.images import load_pixels
from pathloom.models.embed import load_encoder
from pathloom.schema import FOLD_PREFIX, TEST_SPLIT, Sample
from pathloom.slides.features import Shelf, lacks_features, open_shelf
from pathloom.stage import UserError
from pathloom.store import read_samples
from pathloom.tasks import find_task
from pathloom.tasks.task import Score

MAX_ITERATIONS = 2000


def run_probe(config: ProbeConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Fit on the training Samples, or fold by fold, and measure on the held-out ones."""
    benchmark = find_benchmark(config.benchmark)
    samples = [sample for name in config.samples for sample in read_samples(inputs[name])]
    samples = [sample for sample in samples if benchmark.asks(sample)]
    if not held_out(samples, benchmark, None) or any(not sample.answer for sample in samples):
        raise UserError(
            f"{config.name}: {', '.join(config.samples)} hold no labelled held-out Sample of {benchmark.name}"
        )
    if all(sample.split == TEST_SPLIT for sample in samples):
        raise UserError(
            f"{config.name}: {', '.join(config.samples)} hold no training Sample of {benchmark.name} to fit a probe on"
        )
    if without := next((sample.id for sample in samples if not sample.images), None):
        raise UserError(f"{config.name}: {without} has no picture, and a probe sees nothing else")
    shelf = open_shelf(config.slides, inputs)
    asked = len(samples)
    samples = [sample for sample in samples if not lacks_features(sample, shelf, config.name)]
    features = _of_pictures(config, samples, inputs) if shelf is None else _of_slides(config, samples, shelf)
    answers = _predict(samples, features, config.seed)
    predictions = [
        _prediction(benchmark.name, sample, answer)
        for sample, answer in zip(samples, answers, strict=True)
        if answer
    ]
    write_measurements(config.name, predictions, out, num_resamples=config.num_resamples, seed=config.seed)
    counts = {"answers": len(predictions), "features": features.shape[1]}
    return counts | ({"without_features": asked - len(samples)} if asked > len(samples) else {})


def _of_pictures(config: ProbeConfig, samples: Sequence[Sample], inputs: Mapping[str, Path]) -> np.ndarray:
    """[samples, d], of the first picture of each."""
    pictures = tqdm(
        (load_pixels(s.images[0]) for s in samples), total=len(samples), desc=config.name, leave=False
    )
    return load_encoder(config.encoder, inputs).images(pictures)


def _of_slides(config: ProbeConfig, samples: Sequence[Sample], shelf: Shelf) -> np.ndarray:
    """[samples, d], the mean over the tiles of each slide. Raises UserError for a picture and for an empty slide."""
    means = []
    for sample in samples:
        slide = sample.images[0].slide
        if slide is None:
            raise UserError(f"{config.name}.slides: {sample.id} shows a picture; probe it without `slides`")
        tiles = shelf.read(slide).features
        if len(tiles) == 0:
            raise UserError(f"{config.name}: the slide {slide} has no tile, so there is no mean of its tiles")
        means.append(tiles.astype(np.float32).mean(axis=0))
    return np.stack(means)


def _predict(samples: Sequence[Sample], features: np.ndarray, seed: int) -> list[str]:
    """A label for each held-out Sample, "" for training Samples."""
    splits = np.array([sample.split for sample in samples])
    labels = np.array([sample.answer for sample in samples])
    answers = np.full(len(samples), "", dtype=object)
    folds = sorted({split for split in splits if split.startswith(FOLD_PREFIX)})
    for held in folds or ["test"]:
        training = (splits != held) if folds else (splits == "train")
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS, random_state=seed)
        )
        probe.fit(features[training], labels[training])
        answers[splits == held] = probe.predict(features[splits == held])
    return [str(answer) for answer in answers]


def _prediction(benchmark: str, sample: Sample, answer: str) -> Prediction:
    parts = dict(find_task(sample.task).grade(sample, answer))
    score = Score(answer=answer, correct=parts.pop("correct"), parts=parts)
    return Prediction(benchmark, NO_CONTROL, sample, completion="", score=score)
