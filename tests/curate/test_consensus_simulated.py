"""The whole way, from simulated annotators of cells to their consensus with a simulated arbiter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from tests.fixtures import make_image, make_sample

from pathloom.attributes import load_schema
from pathloom.curate.annotate import run_annotate
from pathloom.curate.annotate_config import AnnotateConfig
from pathloom.curate.config import CurateConfig
from pathloom.curate.curate import run_curate
from pathloom.generate.expected_error import expected_error
from pathloom.schema import Attribute, Sample
from pathloom.stage import FACTS_FILE
from pathloom.store import read_samples, write_samples

SCHEMA = load_schema("cervical_cell")
NUM_CELLS = 200
ERROR, ARBITER_ERROR = 0.25, 0.2


def cells() -> list[Sample]:
    rng = np.random.default_rng(0)
    return [
        make_sample(
            f"c{n}",
            task="caption",
            question="",
            answer="",
            images=(make_image(1000 + n),),
            attributes=tuple(
                Attribute(name=name, value=str(rng.choice(kind.values)), resolver="truth")
                for name, kind in SCHEMA.attributes.items()
            ),
        )
        for n in range(NUM_CELLS)
    ]


def simulated(**settings: Any) -> dict[str, Any]:
    return {"generator": {"simulated": {"truth": "cells", **settings}}}


def consensus_of(
    folder: Path, annotators: dict[str, Any], **step: Any
) -> tuple[list[Sample], dict[str, Any]]:
    described = AnnotateConfig(name="described", kind="annotate", samples=("cells",), annotators=annotators)
    inputs = {"cells": folder / "cells", "described": folder / "described"}
    run_annotate(described, inputs, inputs["described"])
    steps = ({"step": "consensus", "truth": "cells", **step},)
    fused = CurateConfig(name="fused", kind="curate", samples=("described",), steps=steps)
    run_curate(fused, inputs, folder / "fused")
    (facts,) = json.loads((folder / "fused" / FACTS_FILE).read_text())
    return list(read_samples(folder / "fused")), facts


def test_fused_errors_of_simulated_annotators_are_the_expected_ones(tmp_path):
    write_samples(cells(), tmp_path / "cells")
    annotators = {name: simulated(error=ERROR, seed=seed) for seed, name in enumerate("abc")}
    arbiter = simulated(role="arbiter", error=ARBITER_ERROR)
    samples, facts = consensus_of(tmp_path, annotators, arbiter=arbiter)
    assert len(samples) == NUM_CELLS
    assert facts["warnings"] == []
    assert facts["arbiter_calls"] == facts["disputed_samples"] == facts["arbiter"]["asked"]
    asked = [one for sample in samples for one in sample.attributes if one.resolver == "arbiter"]
    assert len(asked) == facts["disputed_attributes"]
    inside = 0
    for name, kind in SCHEMA.attributes.items():
        expected = expected_error(len(kind.values), (ERROR,) * 3, ARBITER_ERROR).error
        error, low, high = facts["error_and_interval"][name]["fused"].values()
        wide = binomtest(round(error * NUM_CELLS), NUM_CELLS).proportion_ci(0.999, "exact")
        assert wide.low < expected < wide.high, (name, error, expected)
        inside += low <= expected <= high
    assert inside >= 7, "of nine 95 % intervals"


def test_simulated_annotators_that_err_together_are_reported(tmp_path):
    write_samples(cells(), tmp_path / "cells")
    together = {"error": ERROR, "shared": 0.6, "shared_seed": 1}
    annotators = {
        "a": simulated(**together, seed=1),
        "b": simulated(**together, seed=2),
        "c": simulated(error=ERROR, seed=3),
    }
    _, facts = consensus_of(tmp_path, annotators)
    assert any(
        text.startswith("a / b err together, measured against the truth") for text in facts["warnings"]
    )
    assert facts["pairs_against_truth"]["a / b"]["error_correlation"] > 0.2
    assert not facts["pairs_against_truth"]["a / c"]["alarm"]
