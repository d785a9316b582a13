"""The few-shot linear probe on arrays: how a few pictures are drawn, fitted and tested. No files, no encoders.

Protocol of Patho-R1 (its released script): `shots` features a class, drawn without replacement, or all where there are
fewer; features as the encoder gives them, not normalised; scikit-learn's multinomial logistic regression with lbfgs,
C = 1.0 and at most 1,000 iterations; accuracy on the whole test side; ten runs, numpy seeded with 42 + run (1 to 10).
In which order the script draws its classes is not known. For two classes scikit-learn fits the binomial model.

Other than the script, which counts a failed run as 0 and then skips it: a fit that stops without having converged
keeps its answers, and the run says so. Nothing else can fail here: `check_sides` refuses data that cannot be fitted.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from pathloom.schema import FOLD_PREFIX, TEST_SPLIT

FIRST_SEED = 42
INVERSE_PENALTY = 1.0
MAX_ITERATIONS = 1000
TRAIN_SPLIT = "train"

Strings = NDArray[np.str_]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Rows to draw from, rows to test on; `name` is the split that is held out."""

    name: str
    training: Rows
    tested: Rows


@dataclass(frozen=True)
class Run:
    """One subset at one number of shots, over all parts of the split.

    correct      [number of tested rows] bool, in the order of `tested_rows`
    taken        class -> pictures drawn in each part
    unconverged  fits, of one a part, that stopped before they had converged
    """

    run: int
    correct: NDArray[np.bool_]
    taken: dict[str, tuple[int, ...]]
    unconverged: int

    @property
    def accuracy(self) -> float:
        """Share of right answers; of all parts together, so that each picture counts once."""
        return float(self.correct.mean())


class BadSides(ValueError):
    """A split that cannot be probed; the message names the class or the side."""


def parts_of(sides: Strings) -> list[Part]:
    """Train against test, or each fold against all others. `sides` [n] are the Samples' splits; "val" is on no side."""
    folds = sorted({side for side in sides.tolist() if side.startswith(FOLD_PREFIX)})
    if not folds:
        return [Part(TEST_SPLIT, np.flatnonzero(sides == TRAIN_SPLIT), np.flatnonzero(sides == TEST_SPLIT))]
    in_a_fold = np.isin(sides, folds)
    return [
        Part(fold, np.flatnonzero(in_a_fold & (sides != fold)), np.flatnonzero(sides == fold))
        for fold in folds
    ]


def tested_rows(sides: Strings) -> Rows:
    """Rows that are tested, each once, part by part."""
    return np.concatenate([part.tested for part in parts_of(sides)])


def check_sides(labels: Strings, sides: Strings) -> None:
    """Raises BadSides for fewer than two classes, a side without pictures, a class without training pictures, and for
    folds beside a test split."""
    classes = np.unique(labels).tolist()
    if len(classes) < 2:
        raise BadSides(
            f"all pictures are of the class {classes[0]!r}; two are needed" if classes else "no picture"
        )
    parts = parts_of(sides)
    if len(parts) > 1 and np.isin(sides, (TRAIN_SPLIT, TEST_SPLIT)).any():
        raise BadSides(
            "some Samples stand in folds and others in a test split; ingest all in one of the two ways"
        )
    for part in parts:
        if not len(part.tested):
            raise BadSides(f"no Sample stands in {part.name}; give the ingest a `test_share` or `folds`")
        for one in classes:
            if one not in labels[part.training]:
                raise BadSides(
                    f"the class {one!r} has no training Sample while {part.name} is held out; add groups of it, or "
                    "ingest with other `folds`, `test_share` or `seed`"
                )


def deal_by_picture(labels: Strings, sides: Strings, seed: int) -> Strings:
    """`sides` [n] shuffled among the pictures of each class: groups are torn, each side keeps its number of each class.

    So nothing but the groups differs between the two splits.
    """
    rng = np.random.default_rng(seed)
    dealt = sides.copy()
    for one in np.unique(labels):
        rows = np.flatnonzero(labels == one)
        dealt[rows] = rng.permutation(sides[rows])
    return dealt


def draw(labels: Strings, training: Rows, shots: int, run: int) -> Rows:
    """Rows of one subset, in rising order: `shots` of each class, or all where it has fewer."""
    # The generator behind numpy.random.seed, which the released script seeds.
    rng = np.random.RandomState(FIRST_SEED + run)
    drawn = []
    for one in np.unique(labels):
        rows = training[labels[training] == one]
        drawn.append(rows if len(rows) <= shots else rng.choice(rows, shots, replace=False))
    return np.sort(np.concatenate(drawn))


def learning_curve(
    features: NDArray[np.float32],
    labels: Strings,
    sides: Strings,
    shots: Sequence[int],
    num_runs: int,
    desc: str,
) -> list[list[Run]]:
    """Runs [number of shots][run] on features [n, d], labels [n] and sides [n]. Deterministic.

    A row of features that is not finite is never trained on, and wrong where it is tested: failing must not pay.
    The same rows drawn twice, as where all are taken, are fitted once: lbfgs draws nothing at random.
    """
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(features).all(axis=1))
    parts = [Part(one.name, one.training[finite[one.training]], one.tested) for one in parts_of(sides)]
    fitted: dict[tuple[str, bytes], tuple[NDArray[np.bool_], bool]] = {}

    def correct_of(part: Part, drawn: Rows, run: int) -> tuple[NDArray[np.bool_], bool]:
        key = (part.name, drawn.tobytes())
        if key not in fitted:
            answered = finite[part.tested]
            rows = part.tested[answered]
            correct, converged = np.zeros(len(part.tested), bool), True
            if len(rows):
                answers, converged = _answers(features[drawn], labels[drawn], features[rows], run)
                correct[answered] = answers == labels[rows]
            fitted[key] = (correct, converged)
        return fitted[key]

    curve = []
    bar = tqdm(total=len(shots) * num_runs, desc=desc, unit="run", leave=False)
    for number in shots:
        runs = []
        for run in range(1, num_runs + 1):
            drawn = [draw(labels, part.training, number, run) for part in parts]
            results = [correct_of(part, rows, run) for part, rows in zip(parts, drawn, strict=True)]
            taken = {
                str(one): tuple(int((labels[rows] == one).sum()) for rows in drawn)
                for one in np.unique(labels)
            }
            correct = np.concatenate([right for right, _ in results])
            runs.append(Run(run, correct, taken, sum(not converged for _, converged in results)))
            bar.update()
        curve.append(runs)
    bar.close()
    return curve


def _answers(
    shown: NDArray[np.float32], labels: Strings, tested: NDArray[np.float32], run: int
) -> tuple[Strings, bool]:
    """(answers to `tested`, whether the fit converged)."""
    probe = LogisticRegression(
        C=INVERSE_PENALTY, solver="lbfgs", max_iter=MAX_ITERATIONS, random_state=FIRST_SEED + run
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        probe.fit(shown, labels)
    for one in caught:
        if not issubclass(one.category, ConvergenceWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    converged = not any(issubclass(one.category, ConvergenceWarning) for one in caught)
    return probe.predict(tested), converged
