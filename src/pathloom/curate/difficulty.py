"""Step `difficulty`: easy, medium or hard, by three clusters within each sub-field.

Patho-R1 clusters joint embeddings of picture and caption by K-means with k = 3 within each sub-field. Which encoder it
takes and which cluster is the hard one it does not say. Our choice: the vectors of the named stages, each of length 1,
side by side; the cluster with the shortest captions is easy, the one with the longest hard, equal lengths told apart by
the number of pathology terms. What the clusters mean is for a person to see: the facts name the Samples in their midst.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from pydantic import Field

from pathloom.curate.organ import told
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.curate.words import ORGANS, words_hash
from pathloom.schema import Drop, Level, Sample

if TYPE_CHECKING:
    import numpy as np

    from pathloom.curate.features import Features

LEVELS: tuple[Level, ...] = get_args(Level)
NUM_STARTS = 10
MINI_BATCH_ABOVE = 100_000
"""Samples of one sub-field beyond which K-means works on mini-batches, which is close to it and much faster."""
NUM_NEAREST = 3

_TERMS = re.compile("|".join(f"(?:{words})" for words in ORGANS.values()), re.IGNORECASE)


@dataclass(frozen=True)
class _Seen:
    """What is remembered of a Sample between the passes."""

    sample_id: str
    num_chars: int
    num_terms: int


class DifficultyStep(StepConfig):
    """Entry of `steps`: `{step: difficulty, features: [seen, read]}`. A Sample that has a level keeps it.

    Dropped: a Sample without sub-field (`no_subfield`), one without a vector in one of `features` (`no_features`), and
    those of a sub-field in which three levels cannot be told apart (`too_few_for_levels`).
    """

    version: ClassVar[int] = 1

    step: Literal["difficulty"]
    features: tuple[str, ...] = Field(
        min_length=1, description="stages `embed`, usually one of pictures and one of texts"
    )
    min_samples: int = Field(
        default=30, ge=len(LEVELS), description="of a sub-field; default: ten for each level, our own choice"
    )

    few: Level | None = Field(
        default=None, description="level of Samples of a sub-field with fewer; default: they are dropped"
    )

    def needs(self) -> tuple[str, ...]:
        return self.features

    def fingerprint(self) -> str:
        """The words that `num_terms` counts."""
        return words_hash()

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        from pathloom.curate.features import read_features

        vectors = [read_features(inputs[name]) for name in self.features]
        rows = [one.rows for one in vectors]
        by_subfield: dict[str, list[_Seen]] = {}
        for sample in read():
            if sample.level is None and sample.subfield and not self._without(sample.id, rows):
                text = told(sample)
                seen = _Seen(sample.id, len(text), num_terms(text))
                by_subfield.setdefault(sample.subfield, []).append(seen)

        levels: dict[str, Level] = {}
        too_few: dict[str, str] = {}
        rows_of_facts: list[dict[str, Any]] = []
        for subfield, members in sorted(by_subfield.items()):
            found = None
            if len(members) >= self.min_samples:
                found = _cluster(members, joined(vectors, [one.sample_id for one in members]), seed)
            if found is None:
                too_few[subfield] = self._too_few(subfield, len(members))
                rows_of_facts.append({"subfield": subfield, "level": "too few", "n": len(members)})
                continue
            levels.update(found[0])
            rows_of_facts += [{"subfield": subfield, **row} for row in found[1]]

        def change(sample: Sample) -> Sample | Drop:
            return self._set_level(sample, levels.get(sample.id), too_few, self._without(sample.id, rows))

        return Prepared(change, {"encoders": [one.encoder for one in vectors], "levels": rows_of_facts})

    def _without(self, sample_id: str, rows: Sequence[Mapping[str, int]]) -> list[str]:
        """Names of the stages that hold no vector of the Sample."""
        return [name for name, one in zip(self.features, rows, strict=True) if sample_id not in one]

    def _too_few(self, subfield: str, count: int) -> str:
        if count < self.min_samples:
            return (
                f"{count} Samples of {subfield} have features, {self.min_samples} are needed: add Samples, lower "
                f"min_samples ({len(LEVELS)} at least), or set `few: medium` in this step"
            )
        return (
            f"the {count} Samples of {subfield} show fewer than three different vectors: add other Samples, or set "
            "`few: medium` in this step"
        )

    def _set_level(
        self, sample: Sample, level: Level | None, too_few: Mapping[str, str], without: Sequence[str]
    ) -> Sample | Drop:
        if sample.level is not None:
            return sample
        if sample.subfield is None:
            return self.drop(
                sample, "no_subfield", "levels are told within a sub-field: put the step subfield first"
            )
        if without:
            return self.drop(
                sample, "no_features", f"no row in {', '.join(without)}; missing.jsonl there says why"
            )
        level = level or self.few
        if level is None:
            return self.drop(sample, "too_few_for_levels", too_few[sample.subfield])
        return sample.changed(self.event(f"level {level}"), level=level)


def num_terms(text: str) -> int:
    """Distinct words that name an organ, a tissue or a disease of it, by the table ORGANS: a plain stand-in for the
    count of distinct pathology entities.
    """
    return len({match.group(0).lower() for match in _TERMS.finditer(text)})


def joined(vectors: Sequence["Features"], ids: Sequence[str]) -> "np.ndarray":
    """[len(ids), sum of d]: each encoder's vectors brought to length 1, so that none outweighs the other."""
    import numpy as np

    parts = []
    for one in vectors:
        part = one.of(ids)
        parts.append(part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12))
    return np.concatenate(parts, axis=1)


def _cluster(
    members: Sequence[_Seen], vectors: "np.ndarray", seed: int
) -> tuple[dict[str, Level], list[dict[str, Any]]] | None:
    """Levels by id and a row of facts for each level; None where fewer than three clusters exist."""
    import numpy as np

    chosen, centres = _k_means(vectors, seed)
    if len(set(chosen.tolist())) < len(LEVELS):
        return None
    chars = np.array([one.num_chars for one in members])
    terms = np.array([one.num_terms for one in members])
    order = sorted(range(len(LEVELS)), key=lambda k: (chars[chosen == k].mean(), terms[chosen == k].mean()))
    levels: dict[str, Level] = {}
    facts: list[dict[str, Any]] = []
    for level, cluster in zip(LEVELS, order, strict=True):
        inside = np.flatnonzero(chosen == cluster)
        levels.update((members[i].sample_id, level) for i in inside.tolist())
        distance = np.linalg.norm(vectors[inside] - centres[cluster], axis=1)
        nearest = inside[np.argsort(distance, kind="stable")[:NUM_NEAREST]]
        facts.append(
            {
                "level": level,
                "n": len(inside),
                "mean_chars": round(float(chars[inside].mean()), 1),
                "mean_terms": round(float(terms[inside].mean()), 2),
                "nearest": [members[i].sample_id for i in nearest.tolist()],
            }
        )
    return levels, facts


def _k_means(vectors: "np.ndarray", seed: int) -> tuple["np.ndarray", "np.ndarray"]:
    """Cluster [n] and centres [3, d]: the best of ten seeded starts."""
    import warnings

    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    kind = MiniBatchKMeans if len(vectors) > MINI_BATCH_ABOVE else KMeans
    model = kind(n_clusters=len(LEVELS), n_init=NUM_STARTS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # fewer distinct vectors than clusters: seen above
        chosen = model.fit_predict(vectors)
    return chosen, model.cluster_centers_
