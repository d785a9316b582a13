"""What the sub-field classifier reaches on real pictures, whole groups held out. About two minutes on two cores.

From hopeful to sober: recall on held-out groups after a small seed; the same after one SIMULATED round of corrections
(the true labels of the least certain predictions), beside as many labels of pictures drawn at random and the labels of
all training pictures; recall on a data set of which nothing was learnt. Most classes come from a few data sets, so all
but the last tell data sets apart as much as sub-fields. A baseline of six numbers (mean and spread of red, green and
blue) shows how much of it is colour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.curate.subfield_pictures import Labelled, counts, labelled_pictures
from tests.fixtures import make_sample
from tests.models.test_embed import needs_probe

from pathloom.curate.features import EmbedConfig, read_features, run_embed
from pathloom.curate.subfield import make_classifier, predict
from pathloom.images import encode_png
from pathloom.schema import Image, Sample
from pathloom.store import write_samples

pytestmark = [pytest.mark.slow, needs_probe]

SEEDS = range(5)
HELD_OUT_SHARE = 0.4
SEED_PER_CLASS = 10
NUM_CORRECTED = 40
ROUNDS = ("seed", "corrected (simulated)", "as many at random", "all labels")


@dataclass(frozen=True)
class Seen:
    """Features [n, d] of all pictures, with their labels, groups and data sets."""

    features: np.ndarray
    subfield: np.ndarray
    group: np.ndarray
    dataset: np.ndarray

    @property
    def classes(self) -> list[str]:
        return sorted(set(self.subfield.tolist()))


def sample_of(index: int, one: Labelled) -> Sample:
    image = Image(
        path=one.name,
        data=encode_png(one.pixels),
        width_px=one.pixels.width,
        height_px=one.pixels.height,
    )
    return make_sample(f"{index:05d}", images=(image,))


@pytest.fixture(scope="module")
def pictures(data_root: Path) -> list[Labelled]:
    return list(labelled_pictures(data_root))


def seen(pictures: Sequence[Labelled], features: np.ndarray) -> Seen:
    return Seen(
        features,
        np.array([one.subfield for one in pictures]),
        np.array([one.group for one in pictures]),
        np.array([one.dataset for one in pictures]),
    )


@pytest.fixture(scope="module")
def by_encoder(pictures: list[Labelled], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("real")
    write_samples((sample_of(index, one) for index, one in enumerate(pictures)), folder / "in")
    config = EmbedConfig(name="seen", kind="embed", samples=("in",), encoder="efficientnet_lite0", of="image")
    run_embed(config, {"in": folder / "in"}, folder)
    features = read_features(folder)
    return seen(pictures, features.of(f"{index:05d}" for index in range(len(pictures))))


@pytest.fixture(scope="module")
def by_colour(pictures: list[Labelled]) -> Seen:
    """Six numbers a picture."""
    rows = []
    for one in pictures:
        pixels = np.asarray(one.pixels, np.float32).reshape(-1, 3)
        rows.append(np.concatenate([pixels.mean(0), pixels.std(0)]))
    return seen(pictures, np.stack(rows))


def hold_out(data: Seen, rng: np.random.Generator) -> np.ndarray:
    """True for pictures of held-out groups: about 40 % of each class's groups, at least one, and one is left."""
    side: dict[str, bool] = {}
    for name in sorted(data.classes, key=lambda name: len(set(data.group[data.subfield == name]))):
        groups = sorted(set(data.group[data.subfield == name]))
        wanted = min(max(1, round(HELD_OUT_SHARE * len(groups))), len(groups) - 1)
        free = [group for group in groups if group not in side]
        wanted -= sum(side.get(group, False) for group in groups)
        for position, group in enumerate(rng.permutation(free)):
            side[str(group)] = position < wanted
    return np.array([side[group] for group in data.group])


def recall(data: Seen, rows: np.ndarray, classifier: object) -> dict[str, float]:
    answers = np.array([name for name, _ in predict(classifier, data.features[rows])])
    truth = data.subfield[rows]
    return {name: float((answers[truth == name] == name).mean()) for name in sorted(set(truth))}


def rounds(data: Seen, seed: int) -> tuple[list[dict[str, float]], np.ndarray]:
    """Recall by class on held-out groups in the four ways of ROUNDS, and the held-out mask."""
    rng = np.random.default_rng(seed)
    held = hold_out(data, rng)
    pool = np.flatnonzero(~held)
    chosen = [rng.permutation(pool[data.subfield[pool] == name])[:SEED_PER_CLASS] for name in data.classes]
    known = np.concatenate(chosen)
    first = make_classifier(seed).fit(data.features[known], data.subfield[known])
    rest = np.setdiff1d(pool, known)
    probability = np.array([p for _, p in predict(first, data.features[rest])])
    unsure = rest[np.argsort(probability, kind="stable")[:NUM_CORRECTED]]
    results = []
    for more in (rest[:0], unsure, rng.permutation(rest)[:NUM_CORRECTED], rest):
        rows = np.concatenate([known, more])
        classifier = make_classifier(seed).fit(data.features[rows], data.subfield[rows])
        results.append(recall(data, np.flatnonzero(held), classifier))
    return results, held


def without_data_set(data: Seen) -> dict[tuple[str, str], tuple[float, int]]:
    """(class, data set) -> recall and n, for classes of two or more data sets; nothing of that data set was learnt."""
    results = {}
    for name in data.classes:
        sets = sorted(set(data.dataset[data.subfield == name].tolist()))
        for dataset in sets if len(sets) > 1 else []:
            outside = data.dataset != dataset
            classifier = make_classifier(0).fit(data.features[outside], data.subfield[outside])
            rows = np.flatnonzero(~outside & (data.subfield == name))
            results[name, dataset] = (recall(data, rows, classifier)[name], len(rows))
    return results


def mean_by_class(results: Mapping[tuple[str, str], tuple[float, int]]) -> dict[str, float]:
    """Mean over a class's data sets, each weighing the same."""
    names = sorted({name for name, _ in results})
    return {
        name: float(np.mean([value for (other, _), (value, _) in results.items() if other == name]))
        for name in names
    }


def show(title: str, data: Seen) -> tuple[list[float], dict[str, float]]:
    """Print the tables; gives macro recall in the four ways of ROUNDS, and by class without the data set."""
    runs = [rounds(data, seed) for seed in SEEDS]
    print(f"\n{title}\nclass: pictures/groups, held out: pictures/groups | {' | '.join(ROUNDS)}")
    for name in data.classes:
        inside = data.subfield == name
        tested = sorted((int((held & inside).sum()), len(set(data.group[held & inside]))) for _, held in runs)
        line = f"{name}: {inside.sum()}/{len(set(data.group[inside]))}, held out: "
        line += " to ".join(f"{count}/{groups}" for count, groups in (tested[0], tested[-1]))
        print(
            line,
            "|",
            " | ".join(spread([results[k][name] for results, _ in runs]) for k in range(len(ROUNDS))),
        )
    macro = [[float(np.mean(list(results[k].values()))) for results, _ in runs] for k in range(len(ROUNDS))]
    print("macro recall |", " | ".join(map(spread, macro)))
    left_out = without_data_set(data)
    for (name, dataset), (value, count) in left_out.items():
        print(f"without {dataset}: {name} recall {value:.2f}, n {count}")
    by_class = mean_by_class(left_out)
    print("leave one data set out:", {name: round(value, 2) for name, value in by_class.items()})
    print(f"mean of these: {np.mean(list(by_class.values())):.3f}")
    return [float(np.mean(values)) for values in macro], by_class


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def test_the_classifier_beats_colour_on_held_out_groups(pictures, by_encoder, by_colour, capsys):
    with capsys.disabled():
        print(counts(pictures))
        macro, left_out = show("EfficientNet-Lite0, frozen, logistic regression", by_encoder)
        colour, _ = show("baseline: mean and spread of red, green, blue", by_colour)

    # Floors well below what was measured: 0.72, 0.69 and, without the data set, 0.57 (histopathology 0.85).
    assert macro[0] > 0.6
    assert macro[1] > 0.55
    assert macro[0] > colour[0] + 0.05
    assert np.mean(list(left_out.values())) > 0.45
    assert left_out["histopathology"] > 0.7
