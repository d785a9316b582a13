import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.curate.reviews import NOON, decided
from tests.fixtures import grouped, noting

from pathloom.curate import subfield
from pathloom.curate.features import ABOUT_FILE
from pathloom.curate.step import Prepared
from pathloom.curate.subfield import HandLabel, SubfieldStep, read_labels
from pathloom.curate.words import SUBFIELDS
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError

CENTRES = {"histopathology": (0, 0), "cytology": (6, 0), "ihc": (0, 6)}


def write_features(folder: Path, vectors: Mapping[str, Sequence[float]]) -> Path:
    """The folder of a stage `embed`, by hand."""
    (folder / "features").mkdir(parents=True)
    matrix = np.array(list(vectors.values()), np.float32)
    (folder / ABOUT_FILE).write_text(json.dumps({"encoder": "made", "of": "image", "dim": matrix.shape[1]}))
    np.savez(folder / "features" / "00000.npz", ids=np.array(list(vectors)), features=matrix)
    return folder


def write_labels(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hand(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"sample_id": sample_id, "value": value} for sample_id, value in values.items()]


@pytest.fixture
def world(tmp_path: Path) -> tuple[list[Sample], Path, dict[str, str]]:
    """60 Samples of three sub-fields, five of a group; their features; the truth by id."""
    rng = np.random.default_rng(0)
    samples, vectors, truth = [], {}, {}
    for index in range(60):
        name = list(CENTRES)[index % 3]
        sample_id = f"s{index:02d}"
        samples.append(grouped(sample_id, f"{name} {index // 15}", question="", answer="", context=""))
        vectors[sample_id] = rng.normal(CENTRES[name], 0.6).tolist()
        truth[sample_id] = name
    return samples, write_features(tmp_path / "seen", vectors), truth


def classify(
    samples: Sequence[Sample], folder: Path, labels: Path | Sequence[Path], **fields: Any
) -> tuple[Prepared, list[Any]]:
    files = [labels] if isinstance(labels, Path) else list(labels)
    step = SubfieldStep(step="subfield", by="classifier", features="seen", labels=tuple(files), **fields)
    step.check("here")
    prepared = step.prepare(lambda: iter(samples), {"seen": folder}, seed=0)
    return prepared, [prepared.change(sample) for sample in samples]


def seed_of(truth: Mapping[str, str], count: int = 12) -> dict[str, str]:
    return dict(list(truth.items())[:count])


def test_by_words_the_caption_tells():
    told = grouped("a", "a", question="", answer="Pap smear with koilocytes.")
    had = grouped("b", "b", answer="Pap smear.").model_copy(update={"subfield": "gross"})
    mute = grouped("c", "c", question="", answer="Nothing.")
    step = SubfieldStep(step="subfield", by="words")
    prepared = step.prepare(lambda: iter([told, had, mute]), {}, seed=0)

    first, second, third = (prepared.change(sample) for sample in (told, had, mute))

    assert isinstance(first, Sample)
    assert (first.subfield, first.history[-1].note) == ("cytology", "subfield cytology, by its words")
    assert second is had
    assert third is mute
    assert prepared.facts == {"subfields": {"cytology": 1, "gross": 1, "untold": 1}}


def test_kept_sub_fields_stay_and_others_are_dropped_with_their_name():
    step = SubfieldStep(step="subfield", by="words", keep=("histopathology",))
    samples = [
        grouped("a", "a", answer="Pap smear."),
        grouped("b", "b", answer="H&E."),
        grouped("c", "c", question="", answer="?"),
    ]
    prepared = step.prepare(lambda: iter(samples), {}, seed=0)

    smear, section, mute = (prepared.change(sample) for sample in samples)

    assert isinstance(section, Sample)
    assert isinstance(smear, Drop)
    assert (smear.step, smear.reason, smear.detail) == ("curate.subfield", "subfield", "cytology")
    assert isinstance(mute, Drop)
    assert (mute.reason, mute.detail) == ("subfield", "told by no word")


def test_the_classifier_predicts_what_is_not_labelled(world, tmp_path):
    samples, folder, truth = world

    prepared, results = classify(samples, folder, write_labels(tmp_path / "seed.jsonl", hand(seed_of(truth))))

    assert all(isinstance(one, Sample) and one.subfield == truth[one.id] for one in results)
    by_hand, predicted = results[0].history[-1], results[-1].history[-1]
    assert (by_hand.step, by_hand.note) == ("curate.subfield", "subfield histopathology, by hand")
    assert predicted.note.startswith("subfield ihc, probability 0.")
    assert len(predicted.note.rsplit(" ", 1)[1]) == 4, (
        "two digits after the point: the review page sorts by them"
    )
    assert prepared.facts["subfields"] == {"histopathology": 20, "cytology": 20, "ihc": 20}
    assert (prepared.facts["by_hand"], prepared.facts["predicted"]) == (12, 48)
    json.dumps(prepared.facts)


def test_a_hand_label_stands_against_the_prediction_and_names_the_reviewer(world, tmp_path):
    samples, folder, truth = world
    seed = write_labels(tmp_path / "seed.jsonl", hand(seed_of(truth)))
    review = write_labels(
        tmp_path / "review.jsonl",
        [
            decided("s59", "cytology", "dr a", note="see"),
            decided("s58", "lung", "dr a", field="organ"),
            decided("s00", "cytology", "dr b"),
        ],
    )

    _, results = classify(samples, folder, [review, seed])

    assert results[59].subfield == "cytology"
    assert (results[59].history[-1].note, results[59].history[-1].reviewer) == (
        "subfield cytology, by hand",
        "dr a",
    )
    assert results[58].subfield == truth["s58"]
    assert results[0].subfield == "cytology", "a review wins over a seed"


def test_a_correction_changes_the_predictions(world, tmp_path):
    samples, folder, truth = world
    wrong = {**seed_of(truth), **dict.fromkeys(list(truth)[:12:3], "gross")}
    seed = write_labels(tmp_path / "seed.jsonl", hand(wrong))
    right = write_labels(tmp_path / "right.jsonl", hand(seed_of(truth)))

    _, before = classify(samples, folder, seed)
    _, after = classify(samples, folder, [seed, right])

    assert before[57].subfield == "gross"
    assert after[57].subfield == truth["s57"] == "histopathology"


def test_a_sub_field_that_is_there_is_kept_and_not_learnt_from(world, tmp_path):
    samples, folder, truth = world
    had = [one.model_copy(update={"subfield": "fish"}) if one.id == "s40" else one for one in samples]

    prepared, results = classify(had, folder, write_labels(tmp_path / "s.jsonl", hand(seed_of(truth))))

    assert results[40] is had[40]
    assert prepared.facts["had_one"] == 1
    assert prepared.facts["subfields"]["fish"] == 1


def test_without_features_a_sample_is_dropped_unless_a_person_labelled_it(world, tmp_path):
    samples, folder, truth = world
    more = [*samples, grouped("new", "n"), grouped("known", "k")]
    seed = write_labels(tmp_path / "s.jsonl", hand({**seed_of(truth), "known": "gross", "elsewhere": "fish"}))

    prepared, results = classify(more, folder, seed)

    assert isinstance(results[-2], Drop)
    assert (results[-2].reason, results[-2].detail) == (
        "no_features",
        "no row in seen; its missing.jsonl says why",
    )
    assert isinstance(results[-1], Sample)
    assert results[-1].subfield == "gross"
    assert (prepared.facts["labels_without_features"], prepared.facts["labels_without_sample"]) == (1, 1)


def test_what_is_not_certain_enough_is_dropped(world, tmp_path):
    samples, folder, truth = world
    seed = write_labels(tmp_path / "s.jsonl", hand(seed_of(truth)))
    _, results = classify(samples, folder, seed)
    probability = {
        one.id: float(one.history[-1].note.rsplit(" ", 1)[1])
        for one in results[12:]
        if isinstance(one, Sample)
    }
    least = min(probability, key=lambda sample_id: probability[sample_id])

    _, strict = classify(samples, folder, seed, min_probability=probability[least] + 0.006)

    (dropped,) = [one for one in strict if isinstance(one, Drop) and one.sample_id == least]
    assert dropped.reason == "uncertain_subfield"
    assert dropped.detail == f"{truth[least]}, probability {probability[least]:.2f}"
    assert all(isinstance(one, Sample) for one in strict[:12]), "hand labels stay"


def test_recall_is_measured_on_groups_that_were_left_out(tmp_path):
    # One coordinate names the class, another only the group: what is learnt of a group is worth nothing outside it.
    samples, vectors, truth = [], {}, {}
    for index in range(40):
        name = ("histopathology", "cytology")[index % 2]
        group = index // 2 % 4
        samples.append(grouped(f"s{index}", f"{name} {group}"))
        vectors[f"s{index}"] = np.eye(8)[group * 2 + index % 2] * 5
        truth[f"s{index}"] = name
    samples += [grouped(f"g{k}", "one book") for k in range(3)]
    vectors |= {f"g{k}": np.full(8, -5.0) for k in range(3)}
    truth |= {f"g{k}": "gross" for k in range(3)}
    seed = write_labels(tmp_path / "s.jsonl", hand(truth))

    prepared, _ = classify(samples, write_features(tmp_path / "seen", vectors), seed)

    held_out = prepared.facts["held_out"]
    assert held_out["untested"] == {"gross": {"n": 3, "groups": 1}}
    assert set(held_out["recall"]) == {"histopathology", "cytology"}
    assert held_out["recall"]["cytology"]["n"] == 20
    assert held_out["recall"]["cytology"]["groups"] == 4
    assert held_out["folds"] == 4
    assert held_out["macro_recall"] <= 0.5, "no better than a guess, although every labelled Sample is fitted"


def test_recall_is_one_where_groups_look_alike(world, tmp_path):
    samples, folder, truth = world

    prepared, _ = classify(samples, folder, write_labels(tmp_path / "s.jsonl", hand(truth)))

    held_out = prepared.facts["held_out"]
    assert held_out["macro_recall"] == 1
    assert held_out["untested"] == {}
    assert {name: (row["n"], row["groups"]) for name, row in held_out["recall"].items()} == dict.fromkeys(
        CENTRES, (20, 4)
    )


def test_groups_that_nothing_can_be_held_out_of_are_untested(world, tmp_path):
    samples, folder, truth = world
    one_group = [grouped(one.id, "a") for one in samples]

    prepared, _ = classify(one_group, folder, write_labels(tmp_path / "s.jsonl", hand(truth)))

    assert prepared.facts["held_out"]["macro_recall"] is None
    assert set(prepared.facts["held_out"]["untested"]) == set(CENTRES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"sample_id": "a", "value": "histology"}',
            r"s.jsonl, line 2: 'histology' is no sub-field; known: histop",
        ),
        ('{"sample_id": "a", "field": "subfield", "value": null}', "line 2: None is no sub-field"),
        ('{"value": "ihc"}', "line 2: a label needs sample_id and value"),
        ('{"sample_id": "a", "val', "line 2: not JSON"),
        ('["a", "ihc"]', "line 2: not an object"),
        ('{"sample_id": "a", "value": "ihc", "reviewer": "Ada"}', "line 2: .*as the review page exports it"),
    ],
)
def test_a_line_that_is_no_label_is_named(tmp_path, line, message):
    path = tmp_path / "s.jsonl"
    path.write_text('{"sample_id": "a", "value": "ihc"}\n' + line + "\n")

    with pytest.raises(UserError, match=message):
        read_labels([path])


def test_the_majority_of_the_reviewers_decides_and_not_the_alphabet(tmp_path):
    lines = [
        decided("a", "ihc", "Ada"),
        decided("a", "ihc", "Bob"),
        {**decided("a", "gross", "Zoe"), "decided_at": "2019-01-02T12:00:00Z"},
    ]
    path = write_labels(tmp_path / "r.jsonl", lines)

    assert read_labels([path]).of == {"a": HandLabel("ihc", "Ada, Bob")}


def test_the_latest_decision_of_a_reviewer_counts_in_whatever_file_it_stands(tmp_path):
    late = write_labels(tmp_path / "1.jsonl", [decided("a", "ihc", "Ada")])
    early = {**decided("a", "gross", "Ada"), "decided_at": NOON.replace("2026", "2020")}

    labels = read_labels([late, write_labels(tmp_path / "2.jsonl", [early])])

    assert labels.of == {"a": HandLabel("ihc", "Ada")}


def test_a_label_without_a_majority_is_not_used_and_counted(world, tmp_path):
    samples, folder, truth = world
    lines = [*hand(seed_of(truth)), decided("s00", "cytology", "Ada"), decided("s00", "ihc", "Bob")]

    prepared, results = classify(samples, folder, write_labels(tmp_path / "s.jsonl", lines))

    assert (prepared.facts["labels_undecided"], prepared.facts["by_hand"]) == (1, 11)
    assert results[0].history[-1].note.startswith("subfield histopathology, probability")


def test_a_note_with_another_line_separator_and_a_byte_order_mark_are_no_fault(tmp_path):
    text = json.dumps(decided("a", "ihc", note="one\u2028two\x85three"), ensure_ascii=False) + "\r\n"
    seed = json.dumps(hand({"b": "gross"})[0]) + "\n"
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\xef\xbb\xbf" + seed.encode())

    assert read_labels([path]).of == {"a": HandLabel("ihc", "Ada"), "b": HandLabel("gross")}


def test_every_sub_field_is_a_label(tmp_path):
    path = write_labels(tmp_path / "s.jsonl", hand({name: name for name in SUBFIELDS}))

    assert {label.value for label in read_labels([path]).of.values()} == set(SUBFIELDS)


def test_too_few_examples_are_named_with_the_cure(world, tmp_path):
    samples, folder, truth = world
    rare = write_labels(tmp_path / "r.jsonl", hand({**seed_of(truth), "s50": "gross"}))
    one = write_labels(tmp_path / "o.jsonl", hand({"s00": "ihc", "s03": "ihc"}))

    with pytest.raises(
        UserError, match=r"r.jsonl: fewer than 2 labelled Samples .* of gross; label more of it"
    ):
        classify(samples, folder, rare)
    with pytest.raises(UserError, match=r"o.jsonl: 1 sub-field\(s\) among the labelled .* at least two"):
        classify(samples, folder, one)


def test_a_missing_label_file_is_named(tmp_path):
    step = SubfieldStep(step="subfield", by="classifier", features="seen", labels=(tmp_path / "none.jsonl",))

    with pytest.raises(UserError, match=r"here.labels: .*none.jsonl is not a file"):
        step.check("here")
    assert step.fingerprint() == "['']", "a recipe can be shown before its labels are there"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "classifier"}, "needs features"),
        ({"by": "classifier", "features": "seen"}, "needs features"),
        ({"by": "words", "features": "seen"}, "belong to by: classifier"),
        ({"by": "words", "keep": ()}, "at least 1"),
        ({"by": "words", "keep": ("histology",)}, "histopathology"),
    ],
)
def test_an_impossible_entry_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        SubfieldStep(step="subfield", **fields)


def test_the_key_follows_the_content_of_the_labels_and_not_their_name(tmp_path):
    def key(path: Path) -> tuple[Any, str]:
        step = SubfieldStep(step="subfield", by="classifier", features="seen", labels=(path,))
        return step.keyed(), step.fingerprint()

    first = write_labels(tmp_path / "a.jsonl", hand({"a": "ihc"}))
    copy = write_labels(tmp_path / "b.jsonl", hand({"a": "ihc"}))
    other = write_labels(tmp_path / "c.jsonl", hand({"a": "gross"}))

    assert key(first) == key(copy) != key(other)
    step: Callable[..., SubfieldStep] = SubfieldStep
    assert step(step="subfield", by="classifier", features="seen", labels=(first,)).needs() == ("seen",)
    assert step(step="subfield", by="words").needs() == ()


def test_the_same_seed_gives_the_same_probabilities(world, tmp_path):
    samples, folder, truth = world
    seed = write_labels(tmp_path / "s.jsonl", hand(seed_of(truth)))

    assert classify(samples, folder, seed)[1] == classify(samples, folder, seed)[1]


def test_sub_fields_are_predicted_in_blocks(world, tmp_path, monkeypatch):
    samples, folder, truth = world
    seed = write_labels(tmp_path / "s.jsonl", hand(seed_of(truth)))
    _, whole = classify(samples, folder, seed)
    sizes: list[int] = []
    monkeypatch.setattr(subfield, "ROWS_PER_BLOCK", 10)
    predict = noting(lambda _, features: sizes.append(len(features)), subfield.predict)
    monkeypatch.setattr(subfield, "predict", predict)

    _, results = classify(samples[::-1], folder, seed)

    assert sizes == [10, 10, 10, 10, 8]
    assert [one.history[-1].note for one in results[::-1]] == [one.history[-1].note for one in whole]
