"""The stratified draw: proportions, what cannot be drawn, and what the draw depends on."""

import pytest
from tests.fixtures import make_sample

from pathloom.curate.draw import DrawStep, proportional
from pathloom.schema import Drop, Origin, Sample


def choice(number: int, **fields: object) -> Sample:
    given = {
        "task": "choice",
        "choices": ("a", "b", "c", "d"),
        "answer": "a",
        "subfield": "histopathology",
        "organ": "breast",
        **fields,
    }
    return make_sample(f"s{number}", **given)


def drawn(samples: list[Sample], *, seed: int = 0, **settings: object) -> list[Sample | Drop]:
    step = DrawStep(step="draw", **settings)
    prepared = step.prepare(lambda: iter(samples), {}, seed)
    return [prepared.change(sample) for sample in samples]


def kept(records: list[Sample | Drop]) -> list[Sample]:
    return [record for record in records if isinstance(record, Sample)]


def test_shares_are_kept_and_sum_up():
    assert proportional({("a",): 50, ("b",): 30, ("c",): 20}, 10) == {("a",): 5, ("b",): 3, ("c",): 2}
    # 3.33 each: one of them gives the odd one
    thirds = proportional({("a",): 10, ("b",): 10, ("c",): 10}, 10)
    assert sorted(thirds.values()) == [3, 3, 4]


def test_more_than_there_is_takes_all():
    assert proportional({("a",): 2, ("b",): 1}, 10) == {("a",): 2, ("b",): 1}


@pytest.mark.parametrize("count", range(1, 61))
def test_no_stratum_gives_more_than_it_has(count):
    sizes: dict[tuple[str, ...], int] = {("a",): 1, ("b",): 2, ("c",): 7, ("d",): 50}
    quotas = proportional(sizes, count)
    assert sum(quotas.values()) == count
    assert all(0 <= quotas[stratum] <= size for stratum, size in sizes.items())


def test_histopathology_is_split_by_organ_and_cytology_is_not():
    samples = [choice(n, organ="breast" if n % 4 else "skin and hair") for n in range(80)]
    samples += [choice(100 + n, subfield="cytology", organ="breast") for n in range(20)]
    chosen = kept(drawn(samples, count=50))
    organs = [s.organ for s in chosen if s.subfield == "histopathology"]
    assert (organs.count("breast"), organs.count("skin and hair")) == (30, 10)
    assert sum(s.subfield == "cytology" for s in chosen) == 10
    assert chosen[0].history[-1].note == "histopathology / skin and hair"


def test_what_cannot_be_drawn_says_why():
    samples = [
        choice(0),
        choice(1, split="test"),
        make_sample("s2"),
        choice(3, choices=tuple("abcdefg"), answer="a"),
    ]
    reasons = [r.reason if isinstance(r, Drop) else "drawn" for r in drawn(samples, count=10)]
    assert reasons == ["drawn", "held_out", "other_task", "too_many_options"]


def test_the_draw_depends_on_seed_and_ids_alone():
    samples = [choice(n) for n in range(40)]
    first = {s.id for s in kept(drawn(samples, count=10))}
    assert {s.id for s in kept(drawn(samples[::-1], count=10))} == first
    assert {s.id for s in kept(drawn(samples, count=10, seed=1))} != first


def test_a_share_of_the_groups_is_kept_out_of_the_draw_whole():
    samples = [
        choice(n, origin=Origin(source="b", source_id=str(n), licence="x", group=f"book {n % 20}"))
        for n in range(200)
    ]
    records = drawn(samples, count=1000, group_share=0.3)
    groups = {s.origin.group for s in kept(records)}
    others = {s.origin.group for s, r in zip(samples, records, strict=True) if isinstance(r, Drop)}
    assert groups
    assert others
    assert not groups & others
    assert {r.reason for r in records if isinstance(r, Drop)} == {"other_group"}


def test_the_facts_say_how_much_of_each_stratum_was_drawn():
    step = DrawStep(step="draw", count=5)
    samples = [choice(n) for n in range(8)] + [choice(9, subfield="ihc"), choice(10, subfield="ihc")]
    facts = step.prepare(lambda: iter(samples), {}, 0).facts
    assert facts["strata"] == {
        "histopathology / breast": {"at_hand": 8, "drawn": 4},
        "ihc": {"at_hand": 2, "drawn": 1},
    }
