"""Simulated annotators and arbiters: they err as often as they are told to, together as often as they are told to."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import binomtest
from tests.fixtures import encoded, make_sample

from pathloom.attributes import ANNOTATION_TITLE, DISPUTE_TITLE, load_schema
from pathloom.generate.config import GeneratorRef, SimulatedRef
from pathloom.generate.expected_error import expected_error
from pathloom.generate.generator import Generation, Message, Request
from pathloom.generate.simulated import Simulated, confusable, open_simulated, simulated_name
from pathloom.generate.simulated_truth import read_truth
from pathloom.phantom.cytology import BETHESDA, PROFILES
from pathloom.schema import Attribute, Image, Sample
from pathloom.stage import UserError
from pathloom.store import write_samples

SCHEMA = load_schema("cervical_cell")
NAMES = list(SCHEMA.attributes)
NUM_PICTURES = 1500
FUSED = ("chromatin", "nc_ratio", "nucleoli")  # of six, five and three values
Said = Mapping[str, str | None]


def image(number: int) -> Image:
    """Bytes that are told apart; nobody looks at them."""
    return Image(path=f"{number}.png", data=b"picture %d" % number, width_px=8, height_px=8)


def truth_of(number: int) -> dict[str, str]:
    rng = np.random.default_rng([7, number])
    return {name: str(rng.choice(kind.values)) for name, kind in SCHEMA.attributes.items()}


TRUTH = {number: truth_of(number) for number in range(NUM_PICTURES)}
KNOWN = {
    hashlib.sha256(b"picture %d" % number).hexdigest(): tuple(values.values())
    for number, values in TRUTH.items()
}


def simulated(**settings: Any) -> Simulated:
    return Simulated(SimulatedRef(truth="cells", **settings), SCHEMA, KNOWN)


def asked(number: int, language: str = "en", picture: Image | None = None) -> Request:
    schema = {"title": ANNOTATION_TITLE, "description": f"cervical_cell {language}"}
    message = Message(role="user", text="Describe.", images=(picture or image(number),))
    return Request(messages=(message,), json_schema=schema)


def disputed(number: int, competing: Mapping[str, Sequence[str]], language: str = "en") -> Request:
    properties = {name: {"type": "string", "enum": list(words)} for name, words in competing.items()}
    schema = {
        "title": DISPUTE_TITLE,
        "description": f"cervical_cell {language}",
        "properties": properties,
    }
    return Request(messages=(Message(role="user", text="?", images=(image(number),)),), json_schema=schema)


def answer(generator: Any, request: Request) -> Generation:
    ((_, generation),) = next(iter(generator.generate([("k", request)])))
    return generation


def replies(generator: Any, requests: Sequence[Request]) -> list[dict[str, Any]]:
    keyed = [(str(place), request) for place, request in enumerate(requests)]
    by_key = dict(itertools.chain.from_iterable(generator.generate(keyed)))
    return [json.loads(by_key[key].text) for key, _ in keyed]


def values_said(numbers: Sequence[int] = range(NUM_PICTURES), **settings: Any) -> list[Said]:
    said = replies(simulated(**settings), [asked(number) for number in numbers])
    return [{name: SCHEMA.read(name, words) for name, words in one["attributes"].items()} for one in said]


def wrong_in(said: Sequence[Said], name: str) -> np.ndarray:
    return np.array([one[name] != TRUTH[number][name] for number, one in enumerate(said)])


def holds(hits: float, trials: int, share: float) -> bool:
    """Whether the share lies in the 99.9 % interval of what was counted."""
    interval = binomtest(int(hits), trials).proportion_ci(0.999)
    return bool(interval.low <= share <= interval.high)


@pytest.fixture(scope="module")
def independent() -> list[list[Said]]:
    return [values_said(error=0.25, seed=seed) for seed in (1, 2, 3)]


def test_each_attribute_errs_as_often_as_it_is_told_to_whether_errors_are_shared_or_not():
    errors = {name: 0.05 * place for place, name in enumerate(NAMES, start=1)}
    for shared in (0.0, 0.6):
        said = values_said(error=errors, shared=shared, seed=4)
        for name in NAMES:
            assert holds(wrong_in(said, name).sum(), NUM_PICTURES, errors[name]), (shared, name)


def test_every_wrong_value_is_given_as_often_as_the_others():
    said = values_said(error=1.0)
    for name in ("nc_ratio", "chromatin"):
        num_wrong = len(SCHEMA[name].values) - 1
        for value in SCHEMA[name].values:
            of = [one[name] for number, one in enumerate(said) if TRUTH[number][name] == value]
            assert set(of) == {*SCHEMA[name].values} - {value}
            for other in set(of):
                assert holds(of.count(other), len(of), 1 / num_wrong)


def test_neighbours_are_beside_the_truth_or_its_fixed_partner():
    ordered = {"low": {"slightly increased"}, "increased": {"slightly increased", "high"}}
    for true, beside in ordered.items():
        assert set(confusable(SCHEMA["nc_ratio"], true, "neighbour")) == beside
    partners = {
        value: confusable(SCHEMA["arrangement"], value, "neighbour") for value in SCHEMA["arrangement"].values
    }
    assert partners["single"] == ("flat sheet",)
    assert partners["flat sheet"] == ("single",)
    assert partners["three-dimensional group"] == ("rosette",)  # the seventh of seven
    said = values_said(range(200), error=1.0, confusion="neighbour")
    for number, one in enumerate(said):
        for name in NAMES:
            assert one[name] in confusable(SCHEMA[name], TRUTH[number][name], "neighbour")


def test_annotators_of_other_seeds_or_settings_err_independently(independent):
    others = [*independent, values_said(error=0.3, seed=1)]
    for one, two in itertools.combinations(others, 2):
        a, b = (np.concatenate([wrong_in(said, name) for name in NAMES]) for said in (one, two))
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / sqrt(a.size)


def test_shared_decisions_make_errors_correlate_by_the_product_of_the_shares():
    one, two = (values_said(error=0.25, shared=0.7, seed=seed) for seed in (1, 2))
    a, b = (np.concatenate([wrong_in(said, name) for name in NAMES]) for said in (one, two))
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.49, abs=0.04)
    elsewhere = values_said(error=0.25, shared=0.7, shared_seed=1, seed=2)
    c = np.concatenate([wrong_in(elsewhere, name) for name in NAMES])
    assert abs(np.corrcoef(a, c)[0, 1]) < 4 / sqrt(a.size)


def test_annotators_that_share_everything_give_the_same_wrong_values():
    one, two = (values_said(range(100), error=0.5, shared=1.0, seed=seed) for seed in (1, 2))
    assert one == two


def test_one_setting_and_seed_is_one_model_with_the_same_answers():
    settings: dict[str, Any] = {"error": 0.3, "cannot_tell": 0.1, "seed": 5}
    one, two = (simulated(**settings) for _ in range(2))
    requests = [asked(number) for number in range(50)]
    assert one.model == two.model
    assert one.model.startswith(simulated_name(one.ref))
    assert simulated_name(one.ref) == GeneratorRef(simulated=one.ref).name()
    assert replies(one, requests) == replies(two, requests)
    other = simulated(**{**settings, "seed": 6})
    assert other.model != one.model
    assert replies(other, requests) != replies(one, requests)


def test_another_truth_is_another_model_so_that_no_stored_answer_stands_for_it():
    picture, values = next(iter(KNOWN.items()))
    changed = Simulated(simulated(seed=3).ref, SCHEMA, {**KNOWN, picture: (None, *values[1:])})

    assert changed.model != simulated(seed=3).model
    assert asked(0).key(changed.model) != asked(0).key(simulated(seed=3).model)


def test_the_order_of_requests_decides_nothing():
    generator = simulated(error=0.3)
    requests = [asked(number) for number in range(300)]
    assert replies(generator, requests[::-1])[::-1] == replies(generator, requests)


def test_it_cannot_tell_as_often_as_it_is_told_and_errs_as_before_in_the_rest(independent):
    said = values_said(error=0.25, cannot_tell=0.3, seed=1)
    for name in NAMES:
        told = np.array([one[name] is not None for one in said])
        assert holds(told.sum(), NUM_PICTURES, 0.7)
        assert holds((wrong_in(said, name) & told).sum(), told.sum(), 0.25)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_values_captions_and_abstentions_are_in_the_language_that_was_asked_for(language):
    generator = simulated(error=0.2, cannot_tell=0.2)
    some = replies(generator, [asked(number, language) for number in range(40)])
    for one in some:
        assert list(one["attributes"]) == NAMES
        for name, words in one["attributes"].items():
            value = SCHEMA.read(name, words)
            expected = SCHEMA.cannot_tell[language][0] if value is None else SCHEMA[name].say(value, language)
            assert words == expected
            if value is not None:
                assert SCHEMA.describe({name: value}, language) in one["caption"]
    assert len({one["caption"] for one in some}) == len(some)


def test_annotators_put_the_same_values_in_other_words():
    captions = [replies(simulated(error=0.0, seed=seed), [asked(n) for n in range(20)]) for seed in range(3)]
    same = [a["caption"] == b["caption"] for a, b in zip(captions[0], captions[1], strict=True)]
    assert not any(same)


def test_who_can_tell_nothing_says_so_in_the_caption_too():
    (reply,) = replies(simulated(cannot_tell=1.0), [asked(0)])
    assert set(reply["attributes"].values()) == {"cannot tell"}
    assert reply["caption"] == "Nothing certain can be said of this cervical cell."


def test_an_arbiter_takes_the_truth_where_it_is_given_but_for_its_error():
    competing = [
        (TRUTH[number]["nc_ratio"], *confusable(SCHEMA["nc_ratio"], TRUTH[number]["nc_ratio"], "uniform")[:2])
        for number in range(NUM_PICTURES)
    ]
    arbiter = simulated(role="arbiter", error=0.2, seed=3)
    chosen = replies(arbiter, [disputed(n, {"nc_ratio": words}) for n, words in enumerate(competing)])
    places = [words.index(one["nc_ratio"]) for words, one in zip(competing, chosen, strict=True)]
    assert holds(places.count(0), NUM_PICTURES, 0.8)
    assert holds(places.count(1), NUM_PICTURES, 0.1)


def test_an_arbiter_without_the_truth_among_the_answers_takes_any_of_them():
    arbiter = simulated(role="arbiter", error=0.0)
    wrong = [confusable(SCHEMA["nc_ratio"], TRUTH[n]["nc_ratio"], "uniform")[:2] for n in range(NUM_PICTURES)]
    chosen = replies(arbiter, [disputed(n, {"nc_ratio": words}) for n, words in enumerate(wrong)])
    first = sum(words[0] == one["nc_ratio"] for words, one in zip(wrong, chosen, strict=True))
    assert holds(first, NUM_PICTURES, 0.5)


def test_an_arbiter_rules_in_the_words_of_the_dispute_about_all_that_is_disputed():
    arbiter = simulated(role="arbiter", error=0.0)
    competing = {name: [kind.say(v, "zh") for v in kind.values] for name, kind in SCHEMA.attributes.items()}
    (ruling,) = replies(arbiter, [disputed(0, competing, "zh")])
    assert ruling == {name: SCHEMA[name].say(value, "zh") for name, value in TRUTH[0].items()}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (asked(0, picture=image(NUM_PICTURES)), "no_truth"),
        (asked(0).model_copy(update={"messages": (Message(role="user", text="?"),)}), "no_truth"),
        (
            asked(0, picture=Image(path="/nowhere/a.png", width_px=1, height_px=1)),
            "unreadable",
        ),
        (disputed(0, {"nucleoli": ["none", "small"]}), "other_form"),
        (asked(0, "fr"), "other_form"),
        (asked(0).model_copy(update={"json_schema": None}), "other_form"),
    ],
)
def test_what_it_does_not_know_or_answer_is_an_error_with_its_reason(request_, reason):
    generation = answer(simulated(), request_)
    assert (generation.error, generation.text) == (reason, "")
    assert generation.detail


def stage(folder: Path, *samples: Sample) -> Path:
    write_samples(samples, folder)
    return folder


def told(folder: Path, picture: Image, **settings: Any) -> dict[str, Any]:
    generator = open_simulated(SimulatedRef(truth="cells", **settings), {"cells": folder})
    (reply,) = replies(generator, [asked(0, picture=picture)])
    return dict(reply["attributes"])


def attributes(values: Mapping[str, str]) -> tuple[Attribute, ...]:
    return tuple(Attribute(name=name, value=value, resolver="truth") for name, value in values.items())


def test_the_truth_is_found_by_the_bytes_of_a_picture_kept_in_the_stage_or_read_in_place(tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(1))
    in_place = Image(path=str(tmp_path / "x.png"), width_px=24, height_px=16)
    within = image(0)
    folder = stage(
        tmp_path / "cells",
        make_sample("a", images=(within,), attributes=attributes(TRUTH[0])),
        make_sample("b", images=(in_place,), attributes=attributes(TRUTH[1])),
    )
    assert told(folder, within, error=0.0) == TRUTH[0]
    moved = Image(path="elsewhere.png", data=encoded(1), width_px=24, height_px=16)
    assert told(folder, moved, error=0.0) == TRUTH[1]


def test_a_class_alone_gives_values_of_its_profile_that_all_who_are_simulated_hold_to_be_true(tmp_path):
    folder = stage(
        tmp_path / "cells",
        *(make_sample(str(n), images=(image(n),), finding=BETHESDA[n % len(BETHESDA)]) for n in range(64)),
    )
    for number in range(64):
        profile = PROFILES[BETHESDA[number % len(BETHESDA)]]
        assert all(value in profile[name] for name, value in _made_up(folder)[number].items())
    annotators = [told(folder, image(3), error=0.0, seed=seed) for seed in (0, 1)]
    assert annotators[0] == annotators[1] == _made_up(folder)[3]
    assert len({str(values) for values in _made_up(folder).values()}) > 20


def _made_up(folder: Path) -> dict[int, dict[str, str | None]]:
    truth = read_truth(folder, SCHEMA)
    hashes = {n: hashlib.sha256(b"picture %d" % n).hexdigest() for n in range(64)}
    return {n: dict(zip(NAMES, truth[digest], strict=True)) for n, digest in hashes.items()}


@pytest.mark.parametrize("finding", [None, "necrosis"])
def test_without_attributes_or_a_bethesda_class_it_cannot_tell(tmp_path, finding):
    folder = stage(tmp_path / "cells", make_sample("a", images=(image(0),), finding=finding))
    assert set(told(folder, image(0)).values()) == {"cannot tell"}


def test_attributes_count_before_a_class_where_one_picture_has_several_samples(tmp_path):
    folder = stage(
        tmp_path / "cells",
        make_sample("a", images=(image(0),), finding="NILM"),
        make_sample("b", images=(image(0),), attributes=attributes(TRUTH[0])),
        make_sample("c", images=(image(0),), attributes=attributes(TRUTH[1])),
    )
    assert told(folder, image(0), error=0.0) == TRUTH[0]


def test_a_truth_of_another_schema_is_refused_by_the_sample_that_has_it(tmp_path):
    odd = make_sample("odd", images=(image(0),), attributes=attributes({"nucleoli": "huge"}))
    with pytest.raises(UserError, match="nucleoli = 'huge' of sample odd"):
        told(stage(tmp_path / "cells", odd), image(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"error": 1.2}, "error 1.2 is no probability"),
        ({"error": {"nucleoli": -0.1}}, "error -0.1 is no probability"),
        ({"role": "arbiter", "shared": 0.5}, "an arbiter has only error and seed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        SimulatedRef(truth="cells", **settings)


def test_errors_must_name_every_attribute_and_no_other():
    ref = SimulatedRef(truth="cells", error={**dict.fromkeys(NAMES[1:], 0.1), "colour": 0.1})
    with pytest.raises(
        UserError, match=r"a\.error: give one for each of .*; differing: colour, nuclear_size"
    ):
        ref.check("a")


def fused(seeds: Sequence[int], names: Sequence[str] = FUSED) -> dict[str, tuple[int, int]]:
    """Attribute -> (wrong, in dispute) of three annotators; a simulated arbiter rules on disputes."""
    places = [NAMES.index(name) for name in names]
    schema = replace(SCHEMA, attributes={name: SCHEMA[name] for name in names})
    known = {picture: tuple(values[place] for place in places) for picture, values in KNOWN.items()}

    def of(**settings: Any) -> Simulated:
        return Simulated(SimulatedRef(truth="cells", **settings), schema, known)

    requests = [asked(number) for number in range(NUM_PICTURES)]
    said = [replies(of(error=0.25, seed=seed), requests) for seed in seeds]
    arbiter = of(role="arbiter", error=0.2, seed=seeds[0])
    counts = {}
    for name in names:
        wrong, disputes = 0, {}
        for number in range(NUM_PICTURES):
            votes = [one[number]["attributes"][name] for one in said]
            most = max(votes, key=votes.count)
            if 2 * votes.count(most) > len(votes):
                wrong += most != TRUTH[number][name]
            else:
                disputes[number] = sorted(set(votes))
        rulings = replies(arbiter, [disputed(n, {name: values}) for n, values in disputes.items()])
        wrong += sum(
            ruling[name] != TRUTH[number][name] for number, ruling in zip(disputes, rulings, strict=True)
        )
        counts[name] = (wrong, len(disputes))
    return counts


def check_fused_errors(first_seeds: Sequence[int], names: Sequence[str]) -> None:
    """Of sets of three seeds in a row, taken together."""
    sets = [fused((seed, seed + 1, seed + 2), names) for seed in first_seeds]
    trials = len(sets) * NUM_PICTURES
    for name in names:
        expected = expected_error(len(SCHEMA[name].values), (0.25, 0.25, 0.25), arbiter_error=0.2)
        wrong, disputes = (sum(counts[name][at] for counts in sets) for at in (0, 1))
        print(f"{name}: fused error {wrong / trials:.4f}, exact {expected.error:.4f}")
        assert holds(wrong, trials, expected.error), (name, wrong, expected)
        assert holds(disputes, trials, expected.disputed), (name, disputes, expected)


def test_the_fused_error_of_simulated_annotators_is_the_one_that_is_expected():
    # set 1, 2, 3 alone is 4.2 standard errors off in chromatin's disputes: the furthest of 240, whose spread is chance
    check_fused_errors((1, 4, 7, 10), FUSED)


@pytest.mark.slow
def test_the_fused_error_of_every_attribute_is_the_one_that_is_expected():
    check_fused_errors(range(201, 216, 3), NAMES)


def test_the_expected_error_of_three_annotators_is_the_sum_that_can_be_written_down():
    for size, error in itertools.product((2, 3, 8), (0.1, 0.5)):
        agree = 1 / (size - 1)
        split = 3 * (1 - error) * error**2 * (1 - agree)
        all_differ = error**3 * (1 - 1 / (size - 1)) * (1 - 2 / (size - 1)) if size > 2 else 0.0
        expected = error**3 + 3 * (1 - error) * error**2 * agree + split * 0.2
        found = expected_error(size, [error] * 3, arbiter_error=0.2)
        assert found.error == pytest.approx(expected)
        assert found.disputed == pytest.approx(split + all_differ)
        assert found.left_out == 0


def test_the_expected_error_agrees_with_drawing_lots():
    rng = np.random.default_rng(0)
    errors, size, draws = (0.1, 0.2, 0.5, 0.3, 0.25), 4, 40_000
    votes = np.where(rng.random((draws, 5)) < errors, rng.integers(1, size, (draws, 5)), 0)
    votes = np.where(rng.random((draws, 5)) < 0.2, -1, votes)
    counts = np.stack([(votes == value).sum(axis=1) for value in range(size)], axis=1)
    answering, most = counts.sum(axis=1), counts.max(axis=1)
    settled = 2 * most > answering
    disputes = (answering > 0) & ~settled
    wrong = settled & (counts.argmax(axis=1) != 0)
    for arbiter_error in (None, 0.3):
        found = expected_error(size, errors, arbiter_error, cannot_tell=0.2)
        ruled_wrong = disputes & ((counts[:, 0] == 0) | (rng.random(draws) < (arbiter_error or 0)))
        valued = settled if arbiter_error is None else answering > 0
        mistakes = wrong if arbiter_error is None else wrong | ruled_wrong
        assert holds(mistakes.sum(), int(valued.sum()), found.error)
        assert holds(disputes.sum(), draws, found.disputed)
        assert holds((~valued).sum(), draws, found.left_out)


def test_nobody_errs_where_all_are_right_and_nothing_is_known_where_nobody_can_tell():
    assert expected_error(4, [0.0] * 3).error == 0
    nobody = expected_error(4, [0.5] * 3, cannot_tell=1.0)
    assert (nobody.error, nobody.left_out) == (0, 1)
    with pytest.raises(ValueError, match="fewer than two values"):
        expected_error(1, [0.1])
