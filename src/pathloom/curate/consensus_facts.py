"""What a consensus showed of its annotators, as tables for the report, and warnings in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pathloom.curate.agreement import (
    against_fused,
    alphas,
    confusions,
    kappas,
    pair_names,
    pairs_of,
    pooled_agreement,
    same_annotators,
    share,
    unknown_words,
)
from pathloom.curate.consensus_dependence import (
    MIN_ANNOTATORS,
    MIN_SAMPLES,
    MIN_VALUES,
    Dependence,
    Pair,
    dependence,
)
from pathloom.curate.consensus_fusion import Counted, Settled, counts_of
from pathloom.curate.consensus_truth import (
    MAJORITY_MINUS_DAWID_SKENE,
    Known,
    error_table,
    majority_if_independent,
    pairs_against_truth,
)
from pathloom.curate.consensus_votes import Ints, Votes


def consensus_facts(
    settled: Settled, usage: Mapping[str, Any], true: Mapping[str, Ints] | None, seed: int
) -> dict[str, Any]:
    """Numbers, then tables, then warnings. `true` are the true values where they are known."""
    counted = settled.counted
    votes = counted.votes
    fused = {name: settled.final(name) for name in counted.fused}
    found = dependence(votes.values, votes.schema, len(votes.annotators))
    by_attribute = kappas(votes)
    disputed = np.array([each.disputed for each in counted.fused.values()])
    facts: dict[str, Any] = {
        "schema": f"{votes.schema.name} version {votes.schema.version}",
        "method": counted.method,
        "samples": votes.num_samples,
        "disputed_samples": int(disputed.any(axis=0).sum()),
        "disputed_attributes": int(disputed.sum()),
        "arbiter_calls": usage.get("requests", 0),
        "about_dependence_z": "of votes alone; a low one is no proof that two err independently",
        "by_attribute": _by_attribute(settled, alphas(votes)),
        "annotators": against_fused(votes, fused),
        "pairs": _pairs(votes, found, by_attribute),
        "kappa": by_attribute,
        "dawid_skene_accuracy": _accuracies(counted),
        "majority_against_dawid_skene": _majority_against_dawid_skene(counted),
        "largest_confusions": confusions(votes, fused),
        "words_without_value": unknown_words(votes),
    }
    if usage:
        facts["arbiter"] = dict(usage)
    warnings = [*_about_the_same(votes), *_about_dependence(votes, found)]
    if true is not None:
        with_truth, more = _with_truth(Known(votes, true, fused, _modes(counted)), seed)
        facts |= with_truth
        warnings += more
    return {**facts, "warnings": warnings}


def _by_attribute(settled: Settled, alpha: Mapping[str, float | None]) -> dict[str, dict[str, Any]]:
    """Shares are of all Samples with an Annotation; `voted` are those that the vote settled, `unanimous` among them."""
    table = {}
    for name, fused in settled.counted.fused.items():
        votes = settled.counted.votes.values[name]
        counts = counts_of(votes, fused.competing.shape[1])
        answering, final = counts.sum(axis=1), settled.final(name)
        voted, ruled = fused.value >= 0, settled.rulings[name] >= 0
        row: dict[str, Any] = {"n": int((answering > 0).sum())}
        if (value := alpha[name]) is not None:
            row["alpha"] = round(value, 4)
        shares = {
            "unanimous": voted & (counts.max(axis=1) == answering),
            "voted": voted,
            "arbiter": ruled,
            "left_out": (final < 0) & (answering > 0),
            "nobody_could_tell": answering == 0,
        }
        row |= {kind: round(share(rows.sum(), len(rows)), 4) for kind, rows in shares.items()}
        if voted.any():
            row["mean_confidence"] = round(float(fused.confidence[voted].mean()), 4)
        table[name] = row
    return table


def _pairs(
    votes: Votes, found: Mapping[Pair, Dependence], by_attribute: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, Any]]:
    """Agreement over all attributes, its mean kappa, and the test of dependence that needs no truth."""
    table: dict[str, dict[str, Any]] = {}
    for pair, (answered, agree) in pooled_agreement(votes).items():
        name = pair_names(votes, pair)
        row: dict[str, Any] = {"both_answered": answered}
        values = [kappa[name] for kappa in by_attribute.values() if name in kappa]
        if answered:
            row["agreement"] = round(agree, 4)
        if values:
            row["mean_kappa"] = round(float(np.mean(values)), 4)
        if pair in found:
            row |= {"dependence_z": round(found[pair].z, 2), "p_value": float(f"{found[pair].p_value:.3g}")}
        table[name] = row
    return table


def _accuracies(counted: Counted) -> dict[str, dict[str, float]]:
    """Attribute -> annotator -> share of right votes as the model sees it."""
    names = counted.votes.annotators
    return {
        name: {names[column]: round(value, 4) for column, value in weighing.accuracy.items()}
        for name, weighing in counted.weighings.items()
    }


def _modes(counted: Counted) -> dict[str, Ints]:
    """Attribute -> the most probable value, -1 without votes [sample]."""
    return {
        name: np.where(weighing.posterior.any(axis=1), weighing.posterior.argmax(axis=1), -1).astype(np.int16)
        for name, weighing in counted.weighings.items()
    }


def _majority_against_dawid_skene(counted: Counted) -> dict[str, dict[str, Any]]:
    """Attribute -> Samples that a majority settled, and the share to which the model would give another value."""
    table = {}
    for name, mode in _modes(counted).items():
        majority = counted.majority[name].value
        differ = (majority >= 0) & (majority != mode)
        table[name] = {
            "settled_by_majority": int((majority >= 0).sum()),
            "differ": int(differ.sum()),
            "share": round(share(differ.sum(), (majority >= 0).sum()), 4),
        }
    return table


def _with_truth(known: Known, seed: int) -> tuple[dict[str, Any], list[str]]:
    pairs, independent = pairs_against_truth(known), majority_if_independent(known, seed)
    errors = error_table(known, seed)
    facts = {
        "intervals_resample": known.resampled,
        "error_and_interval": {
            name: {who: error for who, error in row.items() if who != MAJORITY_MINUS_DAWID_SKENE}
            for name, row in errors.items()
        },
        MAJORITY_MINUS_DAWID_SKENE: {name: row[MAJORITY_MINUS_DAWID_SKENE] for name, row in errors.items()},
        "pairs_against_truth": pairs,
        "majority_error_if_independent": independent,
    }
    observed, expected = (
        np.mean([row[key] for row in independent.values()]) if independent else 0.0
        for key in ("error", "if_independent")
    )
    warnings = [
        f"{name} err together, measured against the truth: their errors correlate by {row['error_correlation']:.2f} "
        f"(z {row['z']:.1f}), both are wrong in {row['both_wrong']:.1%} of what both answered where independent errors "
        f"would leave {row['both_wrong_if_independent']:.1%}. The majority errs in {observed:.1%}, and would in "
        f"{expected:.1%} if all erred independently"
        for name, row in pairs.items()
        if row["alarm"]
    ]
    return facts, warnings


def _about_the_same(votes: Votes) -> list[str]:
    agreement = pooled_agreement(votes)
    return [
        f"{pair_names(votes, pair)} say the same of {agreement[pair][1]:.1%} of what both answered and agree less with "
        "others: they may be one model under two names, whose votes count twice; leave one out"
        for pair in same_annotators(votes)
    ]


def _about_dependence(votes: Votes, found: Mapping[Pair, Dependence]) -> list[str]:
    """Also where nothing can be told, since silence would be read as independence."""
    if not found and len(pairs_of(votes)) > 0:
        return [
            "whether annotators err together cannot be told without truth: that needs "
            f"{MIN_ANNOTATORS} annotators, {MIN_SAMPLES} Samples and an attribute of {MIN_VALUES} values"
        ]
    alarms = sorted(((one.z, pair) for pair, one in found.items() if one.alarm), reverse=True)
    if not alarms:
        return []
    names = " or ".join(f"{pair_names(votes, pair)} (z {z:.1f})" for z, pair in alarms)
    which = "; votes alone do not tell which of these pairs" if len(alarms) > 1 else ""
    return [
        f"{names} err together, by their votes alone: they agree against the others more often than annotators that "
        f"err independently and mistake values alike would{which}; what they agree on is less sure than its "
        "confidence says"
    ]
