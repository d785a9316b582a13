import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from sklearn.linear_model import LogisticRegression
from tests.fixtures import make_sample, picture
from tests.models.test_embed import needs_probe

from pathloom.evaluate import probe
from pathloom.evaluate.config import ProbeConfig
from pathloom.evaluate.measure import METRICS, SCORES
from pathloom.evaluate.probe import run_probe
from pathloom.images import encode_png
from pathloom.models.embed import Encoder
from pathloom.schema import Image, Sample
from pathloom.slides.features import FeaturesAbout, SlideAbout, TileFeatures, write_about, write_features
from pathloom.stage import UserError, read_jsonl
from pathloom.store import write_samples

CLASSES = ("dark", "light")


def config() -> ProbeConfig:
    return ProbeConfig(
        name="probe", kind="probe", samples=("tiles",), benchmark="tiles_label", num_resamples=100
    )


def shade(index: int, label: str) -> PILImage.Image:
    return picture(index).point(lambda value: value // 3 + (160 if label == "light" else 0))


def tile(index: int, split: str) -> Sample:
    label = CLASSES[index % 2]
    image = Image(path=f"{index}.png", data=encode_png(shade(index, label)), width_px=24, height_px=16)
    return make_sample(
        f"t{index}",
        task="label",
        split=split,
        images=(image,),
        choices=CLASSES,
        answer=label,
        question="Which?",
    )


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder of one number: the picture's mean."""

    def see(pictures: Sequence[PILImage.Image]) -> Any:
        return torch.tensor([[np.asarray(one).mean(), 0.0] for one in pictures])

    encoder = Encoder("brightness", image_dim=2, see=see)
    monkeypatch.setattr(probe, "load_encoder", lambda text, inputs: encoder)


def run(samples: list[Sample], tmp_path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    write_samples(samples, tmp_path / "tiles")
    counts = run_probe(config(), {"tiles": tmp_path / "tiles"}, tmp_path)
    return counts, read_jsonl(tmp_path / SCORES), json.loads((tmp_path / METRICS).read_text())


@pytest.mark.usefixtures("brightness")
def test_the_probe_answers_the_test_samples_and_no_others(tmp_path):
    samples = [tile(index, "train" if index < 12 else "test") for index in range(20)]

    counts, scores, metrics = run(samples, tmp_path)

    assert counts == {"answers": 8, "features": 2}
    assert [line["sample_id"] for line in scores] == [f"t{index}" for index in range(12, 20)]
    assert all(line["correct"] == 1 for line in scores)
    (primary,) = [row for row in metrics["rows"] if row["primary"]]
    assert (primary["stage"], primary["benchmark"], primary["value"], primary["n"]) == (
        "probe",
        "tiles_label",
        1,
        8,
    )


@pytest.mark.usefixtures("brightness")
def test_in_cross_validation_each_fold_is_answered_by_a_probe_that_has_not_seen_it(tmp_path, monkeypatch):
    fitted = []
    whole = LogisticRegression.fit

    def fit(self: Any, features: Any, labels: Any, *arguments: Any) -> Any:
        fitted.append(len(labels))
        return whole(self, features, labels, *arguments)

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    samples = [tile(index, f"fold-{index // 2 % 3}") for index in range(18)]

    counts, scores, _ = run(samples, tmp_path)

    assert counts["answers"] == 18
    assert fitted == [12, 12, 12]
    assert all(line["correct"] == 1 for line in scores)


@pytest.mark.usefixtures("brightness")
def test_labels_of_the_test_split_are_not_learnt_from(tmp_path):
    # Every test label is turned round; a probe that saw them would follow.
    turned = {"dark": "light", "light": "dark"}
    samples = [tile(index, "train") for index in range(12)]
    samples += [
        sample.model_copy(update={"answer": turned[sample.answer]})
        for sample in (tile(index, "test") for index in range(12, 40))
    ]

    _, scores, _ = run(samples, tmp_path)

    assert all(line["correct"] == 0 for line in scores)


@pytest.mark.usefixtures("brightness")
def test_without_held_out_samples_the_stage_is_named(tmp_path):
    with pytest.raises(UserError, match="probe: tiles hold no labelled held-out Sample of tiles_label"):
        run([tile(index, "train") for index in range(4)], tmp_path)


def test_without_training_samples_or_a_picture_the_stage_says_so(tmp_path):
    with pytest.raises(UserError, match="probe: tiles hold no training Sample of tiles_label"):
        run([tile(index, "test") for index in range(4)], tmp_path)
    blind = tile(4, "test").model_copy(update={"images": ()})
    with pytest.raises(UserError, match="probe: t4 has no picture"):
        run([*(tile(index, "train") for index in range(4)), blind], tmp_path)


@needs_probe
def test_a_real_encoder_tells_light_from_dark(tmp_path):
    samples = [tile(index, "train" if index < 8 else "test") for index in range(12)]

    counts, scores, _ = run(samples, tmp_path)

    assert counts == {"answers": 4, "features": 1280}
    assert all(line["correct"] == 1 for line in scores)


def slide(name: str, split: str, label: str) -> Sample:
    image = Image(path=f"{name}.tiff", width_px=900, height_px=900, mpp=1.0, slide=name)
    return tile(0, split).model_copy(update={"id": name, "images": (image,), "answer": label})


def features_of(means: dict[str, float], folder: Path, missing: tuple[str, ...] = ()) -> None:
    """Three tiles a slide; the first number lies around the slide's mean, the second says nothing."""
    (folder / "features").mkdir(parents=True)
    for name, mean in means.items():
        tiles = np.array([[mean - 4, 1], [mean, 1], [mean + 4, 1]], np.float16)
        write_features(
            folder / "features" / f"{name}.safetensors",
            TileFeatures(tiles, np.zeros((3, 2), np.int32)),
            "simulated",
        )
    about = {
        name: SlideAbout(file=f"{name}.safetensors", num_tiles=3, mpp=1.0, size_px=224) for name in means
    }
    write_about(
        FeaturesAbout(encoder="simulated", dim=2, slides=about, missing=dict.fromkeys(missing, "broken")),
        folder,
    )


def test_a_probe_of_slides_sees_the_mean_of_their_tiles_and_leaves_out_those_without(tmp_path):
    means = {f"s{index}": float(index % 2) for index in range(16)}
    samples = [
        slide(name, "train" if index < 12 else "test", CLASSES[index % 2]) for index, name in enumerate(means)
    ]
    write_samples([*samples, slide("gone", "test", "dark")], tmp_path / "slides")
    features_of(means, tmp_path / "seen", missing=("gone",))
    entry = ProbeConfig(
        name="probe",
        kind="probe",
        samples=("slides",),
        slides=("seen",),
        benchmark="slides_label",
        num_resamples=100,
    )

    counts = run_probe(entry, {"slides": tmp_path / "slides", "seen": tmp_path / "seen"}, tmp_path)

    assert counts == {"answers": 4, "features": 2, "without_features": 1}
    assert all(line["correct"] == 1 for line in read_jsonl(tmp_path / SCORES))
    assert entry.needs() == ("slides", "seen")
    assert entry.kinds_needed() == {"seen": "embed_slides"}


def test_a_probe_of_slides_takes_no_encoder_of_its_own():
    with pytest.raises(ValueError, match="the features of `slides` were made by theirs"):
        ProbeConfig(
            name="probe",
            kind="probe",
            samples=("slides",),
            slides=("seen",),
            benchmark="slides_label",
            encoder="efficientnet_lite0",
        )
