"""Stage `retrieval`: a picture's caption among all captions (i2t), and a caption's picture among all pictures (t2i).

Recall at k is the share of queries whose right answer is among the k items with the highest cosine, both sides brought
to length 1. Two directions, each under its own name: below 10,000 pairs on a GPU the script that Patho-R1 released
ranks texts for each image, else images for each text, and calls both text-to-image.

Rules, which every board states:
- A pair's own item is right; with `same_caption: right` so is an item of another pair whose caption is the same after
  `tasks.parsing.normalise` (case, spaces, closing full stop). The pool is all items, repeated ones too.
- A tie counts against the model (`nearest.pair_ranks`), so features that are all alike find nothing.
- All encoders of a board answer for the same pairs: one that any of them cannot take is a Drop for all.

A caption that occurs twice is encoded once, so that its copies have one vector; a caption longer than an encoder's
context is cut by its tokenizer. In memory: the pictures' files and, of all encoders, the features of all sets.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pathloom.evaluate.encoders import (
    comparison,
    drop_of,
    each_encoder,
    held_out_set,
    image_features,
    unit,
    write_measured,
)
from pathloom.evaluate.encoders_config import RetrievalConfig, RetrievalSet
from pathloom.evaluate.metrics import Scored, compare_runs, interval_of, resampled_sums, resampling_unit
from pathloom.evaluate.published import (
    DIGITS,
    RECALL_AT,
    published_notes,
    published_retrieval,
    retrieval_column,
)
from pathloom.evaluate.report_records import Board, BoardRow, Cell, Comparison, Measured
from pathloom.models.embed import Encoder
from pathloom.nearest import TIE, pair_ranks
from pathloom.schema import TEST_SPLIT, Drop, Sample
from pathloom.stage import UserError
from pathloom.tasks.parsing import normalise
from pathloom.tasks.task import Score

TASK = "caption"
COMPARED = "mean recall of both directions"

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class _Pairs:
    """One set. `texts` are its distinct captions as written; caption i is texts[text_of[i]].

    same  [n] one number for each caption after normalising
    """

    name: str
    samples: tuple[Sample, ...]
    texts: tuple[str, ...]
    text_of: Indices
    same: Indices


@dataclass(frozen=True)
class _Features:
    """What one encoder gave: `images` [m, d] for `image_rows` [m] of a set, ascending, and `texts` [u, d]."""

    encoder: str
    source: str
    images: np.ndarray
    image_rows: Indices
    texts: np.ndarray


@dataclass(frozen=True)
class _Found:
    """Ranks from 1 of the best right answer of each pair's picture (i2t) and caption (t2i)."""

    encoder: str
    source: str
    i2t: Indices
    t2i: Indices


def run_retrieval(config: RetrievalConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Measure every encoder on every set: one board a set, paired comparisons with the first encoder, drops.jsonl.

    Raises UserError where a set is left without a pair that every encoder can take.
    """
    drops: dict[str, list[Drop]] = {one.name: [] for one in config.sets}
    pairs = [_pairs_of(config, one, inputs, drops[one.name]) for one in config.sets]
    features: dict[str, list[_Features]] = {one.name: [] for one in pairs}
    for name, encoder in each_encoder(config, inputs):
        for of_set in pairs:
            features[of_set.name].append(_encode(config, name, encoder, of_set, out, drops[of_set.name]))
    boards: list[Board] = []
    comparisons: list[Comparison] = []
    measured: dict[str, int] = {}
    for of_set in pairs:
        kept = _kept_by_all(config, of_set, features[of_set.name])
        found = [_find(config, of_set, one, kept) for one in features.pop(of_set.name)]
        scored = [of_set.samples[row] for row in kept]
        boards.append(_board(config, of_set.name, scored, of_set.same[kept], found, drops[of_set.name]))
        comparisons += _compare(config, of_set.name, scored, found)
        measured[of_set.name] = len(kept)
    every = [drop for of_set in drops.values() for drop in of_set]
    found_here = Measured(boards=tuple(boards), comparisons=tuple(comparisons))
    return {
        "samples_measured": sum(measured.values()),
        "pairs": measured,
        "drops": write_measured(found_here, every, out),
    }


def hits_at(ranks: Indices, recall_at: Sequence[int]) -> Floats:
    """[n, len(recall_at)]: 1 where the right answer is among the first k, else 0."""
    return (ranks[:, None] <= np.asarray(recall_at)).astype(np.float64)


def chance_at(groups: Indices, k: int) -> float:
    """Expected recall at k, in [0, 1], of a random order of all n items, `groups` [n] as in `nearest.pair_ranks`.

    The first k of n hold none of a query's g right answers with probability prod over t < k of (n - g - t) / (n - t),
    the hypergeometric distribution at 0. With one right answer that is k / n.
    """
    n = len(groups)
    _, members = np.unique(groups, return_counts=True)
    sizes, times = np.unique(members, return_counts=True)
    drawn = np.arange(min(k, n))
    missed = np.prod(np.maximum(n - sizes[:, None] - drawn, 0) / (n - drawn), axis=1)
    return float(np.average(1 - missed, weights=sizes * times))


# ------------------------------------------------------------------------------------------------- pairs
def _pairs_of(
    config: RetrievalConfig, one: RetrievalSet, inputs: Mapping[str, Path], drops: list[Drop]
) -> _Pairs:
    samples, missing = held_out_set(
        config, one, inputs, lambda s: _worded(one, s), f"{TASK}, wording {one.wording},"
    )
    drops += missing
    drops += [drop_of(config, sample, "no_caption") for sample in samples if not normalise(sample.answer)]
    samples = [sample for sample in samples if normalise(sample.answer)]
    if not samples:
        raise UserError(
            f"{config.name}: no Sample of {', '.join(one.samples)} is left for the set {one.name} (wording "
            f"{one.wording}; {_counted(drops) or 'nothing dropped'})"
        )
    texts = {text: number for number, text in enumerate(dict.fromkeys(s.answer for s in samples))}
    captions = {text: number for number, text in enumerate(dict.fromkeys(map(normalise, texts)))}
    return _Pairs(
        one.name,
        tuple(samples),
        tuple(texts),
        np.array([texts[sample.answer] for sample in samples], np.int64),
        np.array([captions[normalise(sample.answer)] for sample in samples], np.int64),
    )


def _worded(one: RetrievalSet, sample: Sample) -> bool:
    return sample.task == TASK and (one.wording == "all" or f"wording={one.wording}" in sample.strata)


# ---------------------------------------------------------------------------------------------- features
def _encode(
    config: RetrievalConfig, name: str, encoder: Encoder, pairs: _Pairs, out: Path, drops: list[Drop]
) -> _Features:
    images, image_rows, missing = image_features(config, name, encoder, pairs.samples, out)
    bar = tqdm(pairs.texts, desc=f"{config.name} {name}", unit="caption", leave=False)
    texts = encoder.texts(bar, config.batch_size)
    whole = np.isfinite(texts).all(axis=1)
    missing += [
        drop_of(
            config, pairs.samples[row], "text_features_not_finite", f"{encoder.name} gives NaN or infinity"
        )
        for row in np.flatnonzero(~whole[pairs.text_of]).tolist()
    ]
    known = {(drop.sample_id, drop.reason) for drop in drops}
    drops += [drop for drop in missing if (drop.sample_id, drop.reason) not in known]
    return _Features(name, encoder.name, images, image_rows, texts)


def _kept_by_all(config: RetrievalConfig, pairs: _Pairs, features: Sequence[_Features]) -> Indices:
    """Rows of the set that every encoder has both features of."""
    kept = np.ones(len(pairs.samples), bool)
    for one in features:
        own = np.zeros(len(pairs.samples), bool)
        own[one.image_rows] = True
        own &= np.isfinite(one.texts).all(axis=1)[pairs.text_of]
        if not own.any():
            raise UserError(
                f"{config.name}: {one.encoder} gives no features of a picture and its caption in {pairs.name}: "
                "look at its weights and at the pictures, or take it out of `encoders`"
            )
        kept &= own
    if not kept.any():
        raise UserError(
            f"{config.name}: no pair of {pairs.name} has features from every encoder; measure them in stages apart"
        )
    return np.flatnonzero(kept)


def _find(config: RetrievalConfig, pairs: _Pairs, features: _Features, kept: Indices) -> _Found:
    images = unit(features.images[np.isin(features.image_rows, kept)])
    texts = unit(features.texts)[pairs.text_of[kept]]
    i2t, t2i = pair_ranks(images, texts, _groups(config, pairs.same[kept]))
    return _Found(features.encoder, features.source, i2t, t2i)


def _groups(config: RetrievalConfig, same: Indices) -> Indices:
    """Pairs of one number are right answers of each other."""
    return same if config.same_caption == "right" else np.arange(len(same))


# ------------------------------------------------------------------------------------------------- board
def _board(
    config: RetrievalConfig,
    name: str,
    samples: Sequence[Sample],
    same: Indices,
    found: Sequence[_Found],
    drops: Sequence[Drop],
) -> Board:
    ks = (*config.recall_at, None)
    columns = tuple(column for k in ks for column in (retrieval_column("i2t", k), retrieval_column("t2i", k)))
    rows = [_row(config, samples, one) for one in found]
    notes = _notes(config, samples, same, drops)
    if config.published and (published := published_retrieval(name, columns)):
        rows += published
        notes += (
            "Published: the released script scores the pair's own item only, and below 10,000 pairs on a GPU it ranks "
            "texts for each image, else images for each text, under the one name text-to-image; which of the printed "
            "columns came from which branch is not known.",
            *published_notes("retrieval", name),
        )
    return Board(
        stage=config.name,
        title=f"Retrieval: {name}, recall in per cent",
        columns=columns,
        rows=tuple(rows),
        digits=DIGITS,
        notes=notes,
    )


def _row(config: RetrievalConfig, samples: Sequence[Sample], found: _Found) -> BoardRow:
    i2t, t2i = (_with_mean(hits_at(ranks, config.recall_at)) for ranks in (found.i2t, found.t2i))
    values = 100 * np.stack([i2t, t2i], axis=2).reshape(len(samples), -1)  # i2t and t2i in turns
    sums = resampled_sums(
        _scored(samples, np.zeros(len(samples))),
        np.column_stack([values, np.ones(len(samples))]),
        seed=config.seed,
        num_resamples=config.num_resamples,
    )
    intervals = [
        interval_of(float(mean), resampled)
        for mean, resampled in zip(values.mean(axis=0), (sums[:, :-1] / sums[:, -1:]).T, strict=True)
    ]
    cells = tuple(Cell(value=one.value, low=one.low, high=one.high) for one in intervals)
    return BoardRow(name=found.encoder, origin="measured", source=found.source, cells=cells)


def _with_mean(hits: Floats) -> Floats:
    return np.column_stack([hits, hits.mean(axis=1)])


def _scored(samples: Sequence[Sample], correct: Floats) -> list[Scored]:
    return [
        Scored(sample, Score(answer=None, correct=value))
        for sample, value in zip(samples, correct.tolist(), strict=True)
    ]


def _compare(
    config: RetrievalConfig, name: str, samples: Sequence[Sample], found: Sequence[_Found]
) -> list[Comparison]:
    """The first encoder against each other one: of each pair, the mean over both directions and all k."""
    means = [
        np.hstack([hits_at(ranks, config.recall_at) for ranks in (one.i2t, one.t2i)]).mean(axis=1)
        for one in found
    ]
    before = _scored(samples, means[0])
    comparisons = []
    for one, mean in zip(found[1:], means[1:], strict=True):
        result = compare_runs(
            [before], [_scored(samples, mean)], seed=config.seed, num_resamples=config.num_resamples
        )
        comparisons.append(comparison(found[0].encoder, one.encoder, name, COMPARED, result))
    return comparisons


def _notes(
    config: RetrievalConfig, samples: Sequence[Sample], same: Indices, drops: Sequence[Drop]
) -> tuple[str, ...]:
    n = len(samples)
    groups = _groups(config, same)
    chance = ", ".join(f"{100 * chance_at(groups, k):.2f} at {k}" for k in config.recall_at)
    sizes = np.bincount(same)
    shared = int(sizes[sizes > 1].sum())
    counts = (
        "counts as found" if config.same_caption == "right" else "does not count, as in the paper's script"
    )
    few = [k for k in config.recall_at if k >= n]
    clusters = len({sample.origin.cluster for sample in samples})
    unit_drawn = (
        f"{clusters} groups" if resampling_unit(_scored(samples, np.zeros(n))) == "group" else "pairs"
    )
    as_printed = ", the paper's Aver" if config.recall_at == RECALL_AT else ""
    notes = [
        f"{n:,} pairs. i2t: the caption of a picture is looked for among all {n:,} captions; t2i: the picture of a "
        f"caption among all {n:,} pictures; mean: of the recalls at {', '.join(map(str, config.recall_at))}"
        f"{as_printed}.",
        f"A random order of the items reaches {chance}.",
        f"{shared:,} pairs share their caption (case, spaces and a closing full stop aside) with another pair; that "
        f"other pair's item {counts}. A tie, two cosines at most {TIE:g} apart, counts against the model.",
        f"Intervals: 95 %, bootstrap over {unit_drawn}.",
    ]
    if few:
        notes.append(f"Recall at {few[0]} and above is 100 by definition: there are {n:,} pairs.")
    if drops:
        notes.append(f"Left out for all encoders: {_counted(drops)}.")
    held = Counter(sample.split for sample in samples)
    if set(held) != {TEST_SPLIT}:
        notes.append(
            "Splits: " + ", ".join(f"{split} {count:,}" for split, count in sorted(held.items())) + "."
        )
    return tuple(notes)


def _counted(drops: Sequence[Drop]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in Counter(drop.reason for drop in drops).items())
