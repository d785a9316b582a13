"""Step `simulated_labels`: a share of Samples gets another class than its own. For experiments: the result is wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.schema import Sample
from pathloom.stage import UserError


class SimulatedLabelsStep(StepConfig):
    """Entry of `steps`: `{step: simulated_labels, error: 0.1}` makes a tenth of the classes wrong.

    Each `finding` is replaced with probability `error`, by any of the set's other findings alike. Which, depends on the
    stage's seed, the Sample's id and the findings that the set has. A Sample without a `finding` stays as it is.
    """

    version: ClassVar[int] = 1

    step: Literal["simulated_labels"]
    error: float = Field(
        gt=0, le=1, description="share of Samples whose `finding` becomes another class of the set"
    )

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        labels = [(sample.id, sample.finding) for sample in read()]
        counts = Counter(finding for _, finding in labels)
        findings = tuple(sorted(finding for finding in counts if finding is not None))
        if len(findings) < 2:
            raise UserError(
                f"simulated_labels: the Samples have {len(findings)} different findings, so none can be mistaken "
                "for another; leave the step out"
            )
        mistaken: Counter[str] = Counter()
        for sample_id, finding in labels:
            wrong = self._wrong(sample_id, finding, findings, seed)
            if wrong is not None:
                mistaken[f"{finding} as {wrong}"] += 1

        def change(sample: Sample) -> Sample:
            wrong = self._wrong(sample.id, sample.finding, findings, seed)
            if wrong is None:
                return sample
            return sample.changed(self.event(f"simulated label error: was {sample.finding}"), finding=wrong)

        facts = {
            "simulated": True,
            "error": self.error,
            "labelled": sum(count for finding, count in counts.items() if finding is not None),
            "unlabelled": counts[None],
            "made_wrong": mistaken.total(),
            "mistaken": dict(sorted(mistaken.items())),
        }
        return Prepared(change, facts)

    def _wrong(self, sample_id: str, finding: str | None, findings: Sequence[str], seed: int) -> str | None:
        """What stands in place of the Sample's finding; None where that stays."""
        if finding is None:
            return None
        errs, which = np.random.default_rng([seed, *sample_id.encode()]).random(2)
        others = [other for other in findings if other != finding]
        return others[int(which * len(others))] if errs < self.error else None
