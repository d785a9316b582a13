import json
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import make_image, make_sample, noting
from tests.tasks.samples import make_sample as make_mask_sample

from pathloom.benchmarks import find_benchmark
from pathloom.card import ModelCard, read_card, write_card
from pathloom.evaluate import generative
from pathloom.evaluate.config import EvaluateConfig
from pathloom.evaluate.generative import PREDICTIONS, run_evaluate
from pathloom.evaluate.measure import METRICS, SCORES, read_predictions
from pathloom.evaluate.select import apply_control
from pathloom.masks import fill_boxes
from pathloom.models.load import load_model
from pathloom.schema import Sample
from pathloom.stage import UserError, read_jsonl
from pathloom.store import read_samples, write_samples
from pathloom.tasks import find_task


def config(**fields: Any) -> EvaluateConfig:
    given = {
        "name": "after",
        "kind": "evaluate",
        "model": {"stage": "sft"},
        "samples": ("phantoms",),
        "benchmarks": ("phantom_diagnosis", "phantom_structures"),
        "controls": ("no_image", "shuffled_options"),
        "batch_size": 4,
        "max_new_tokens": 5,
        "num_resamples": 100,
    }
    return EvaluateConfig.model_validate({**given, **fields})


# 8 diagnoses with their two controls, 3 structures with no_image (they have no options to shuffle).
NUM_REQUESTS = 8 * 3 + 3 * 2


@pytest.fixture(scope="module")
def inputs(phantom_folder: Path, model_folder: Path) -> dict[str, Path]:
    return {"phantoms": phantom_folder, "sft": model_folder}


@pytest.fixture(scope="module")
def evaluated(
    inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("evaluated")
    return out, run_evaluate(config(), inputs, out)


def record_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str, str]]]:
    """The keys of every batch that the model is asked from now on."""
    asked: list[list[tuple[str, str, str]]] = []
    generate = generative.generate

    def recorded(model: Any, processor: Any, requests: Any, *arguments: Any) -> list[str]:
        asked.append([request.key for request in requests])
        return generate(model, processor, requests, *arguments)

    monkeypatch.setattr(generative, "generate", recorded)
    return asked


def files_of(folder: Path) -> dict[str, Any]:
    return {
        "metrics": json.loads((folder / METRICS).read_text()),
        "scores": read_jsonl(folder / SCORES),
        "predictions": read_jsonl(folder / PREDICTIONS),
    }


def test_every_question_is_asked_once_under_every_control(evaluated, phantom_folder):
    out, counts = evaluated
    rows = read_jsonl(out / PREDICTIONS)

    assert counts["answers"] == len(rows) == NUM_REQUESTS
    keys = [(row["benchmark"], row["control"], row["sample_id"]) for row in rows]
    assert len(set(keys)) == NUM_REQUESTS
    held_out = {sample.id for sample in read_samples(phantom_folder) if sample.split == "test"}
    assert {row["sample_id"] for row in rows} <= held_out
    assert counts["unparsed"] == sum(line["answer"] is None for line in read_jsonl(out / SCORES))


def test_measurements_name_stage_benchmark_control_and_chance(evaluated):
    rows = files_of(evaluated[0])["metrics"]["rows"]

    assert {row["stage"] for row in rows} == {"after"}
    primary = [row for row in rows if row["primary"]]
    assert {(row["benchmark"], row["control"], row["n"]) for row in primary} == {
        *(("phantom_diagnosis", control, 8) for control in ("none", "no_image", "shuffled_options")),
        *(("phantom_structures", control, 3) for control in ("none", "no_image")),
    }
    assert all(row["chance"] is not None for row in primary)


@pytest.mark.parametrize("cut_bytes", [0, 7], ids=["at a line", "within a line"])
def test_an_evaluation_cut_off_asks_only_what_is_missing_and_ends_alike(
    evaluated, inputs, tmp_path, monkeypatch, cut_bytes
):
    lines = (evaluated[0] / PREDICTIONS).read_bytes().splitlines(keepends=True)
    kept = 10
    begun = lines[kept][:cut_bytes]
    (tmp_path / PREDICTIONS).write_bytes(b"".join(lines[:kept]) + begun)
    asked = record_batches(monkeypatch)

    counts = run_evaluate(config(), inputs, tmp_path)

    assert counts == evaluated[1]
    assert sum(map(len, asked)) == NUM_REQUESTS - kept
    assert files_of(tmp_path) == files_of(evaluated[0])


def test_an_evaluation_killed_between_batches_keeps_every_answer(evaluated, inputs, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    generate = generative.generate
    batches = []

    def stopped(*arguments: Any) -> list[str]:
        batches.append(1)
        if len(batches) == 3:
            raise Stopped
        return generate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(generative, "generate", stopped)
        with pytest.raises(Stopped):
            run_evaluate(config(), inputs, tmp_path)
    assert len(read_jsonl(tmp_path / PREDICTIONS)) == 8

    assert run_evaluate(config(), inputs, tmp_path) == evaluated[1]
    assert files_of(tmp_path) == files_of(evaluated[0])


def test_nothing_is_loaded_when_all_answers_are_there(evaluated, inputs, tmp_path, monkeypatch):
    (tmp_path / PREDICTIONS).write_bytes((evaluated[0] / PREDICTIONS).read_bytes())
    monkeypatch.setattr(generative, "load_model", lambda *arguments: pytest.fail("a model was loaded"))

    run_evaluate(config(), inputs, tmp_path)

    assert files_of(tmp_path) == files_of(evaluated[0])


def test_the_answers_do_not_depend_on_the_batch_size(evaluated, inputs, tmp_path):
    run_evaluate(config(batch_size=1), inputs, tmp_path)

    assert files_of(tmp_path)["predictions"] == files_of(evaluated[0])["predictions"]


def test_a_batch_holds_one_benchmark_and_one_control(inputs, tmp_path, monkeypatch):
    asked = record_batches(monkeypatch)

    run_evaluate(config(batch_size=5), inputs, tmp_path)

    assert all(len(batch) <= 5 and len({key[:2] for key in batch}) == 1 for batch in asked)


def test_shuffled_options_are_graded_as_they_were_asked(inputs, tmp_path, monkeypatch):
    """A model that always knows the right letter of what it is shown scores full marks under the control, too."""
    from pathloom.tasks import find_task

    def knowing(model: Any, processor: Any, requests: Any, style: Any, max_new_tokens: int) -> list[str]:
        return [
            find_task(r.asked.task).target(r.asked, r.benchmark.pinned_template(), "direct") for r in requests
        ]

    monkeypatch.setattr(generative, "generate", knowing)
    run_evaluate(config(benchmarks=("phantom_diagnosis",)), inputs, tmp_path)

    rows = [row for row in files_of(tmp_path)["metrics"]["rows"] if row["primary"]]
    assert {row["control"]: row["value"] for row in rows} == {"none": 1, "no_image": 1, "shuffled_options": 1}
    samples = [s for s in read_samples(inputs["phantoms"]) if s.task == "choice" and s.split == "test"]
    letters = {
        line["sample_id"]: line["completion"]
        for line in read_jsonl(tmp_path / SCORES)
        if line["control"] == "shuffled_options"
    }
    for sample in apply_control(samples, "shuffled_options", 0):
        assert letters[sample.id].startswith("<answer>")
        assert ord(letters[sample.id][8]) - ord("A") == sample.choices.index(sample.answer)


def test_predictions_are_read_back_with_their_samples(evaluated, inputs):
    samples = {sample.id: sample for sample in read_samples(inputs["phantoms"])}

    predictions = read_predictions(evaluated[0], samples)

    assert len(predictions) == NUM_REQUESTS
    assert all(prediction.sample is samples[prediction.sample.id] for prediction in predictions)


def test_a_benchmark_without_held_out_samples_is_named(inputs, tmp_path):
    with pytest.raises(
        UserError, match=r"after\.benchmarks: phantoms hold no held-out Sample of phantom_bethesda"
    ):
        run_evaluate(config(benchmarks=("phantom_bethesda",)), inputs, tmp_path)


def test_a_question_that_two_stages_hold_is_refused(inputs, tmp_path):
    inputs = {**inputs, "again": inputs["phantoms"]}
    with pytest.raises(UserError, match=r"after\.samples: phantoms, again hold phantom/\S+ twice"):
        run_evaluate(config(samples=("phantoms", "again")), inputs, tmp_path)


def with_card(model_folder: Path, folder: Path, **fields: Any) -> Path:
    """A model folder that differs in its card alone."""
    folder.mkdir()
    for path in model_folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "pathloom_card.json").unlink()
    write_card(ModelCard.model_validate({**dict(read_card(model_folder)), **fields}), folder)
    return folder


def test_the_manifest_notes_what_lies_outside_the_models_card(inputs, model_folder, tmp_path):
    folder = with_card(
        model_folder, tmp_path / "model", templates={"yes_no": ("plain", "reply")}, mpp_range=(0.2, 0.3)
    )
    samples = [
        make_sample(f"{mpp}", split="test", task="yes_no", images=(make_image(1, mpp=mpp),))
        for mpp in (0.25, 0.5, None)
    ]
    samples = [
        sample.model_copy(update={"origin": sample.origin.model_copy(update={"source": "phantom_presence"})})
        for sample in samples
    ]
    write_samples(samples, tmp_path / "made")

    counts = run_evaluate(
        config(benchmarks=("phantom_presence",), controls=()),
        {"phantoms": tmp_path / "made", "sft": folder},
        tmp_path,
    )

    assert counts["template_seen_in_training"] == ["phantom_presence"]
    assert counts["outside_mpp_range"] == 1


def test_each_folds_model_answers_for_the_samples_it_has_not_seen(
    inputs, model_folder, tmp_path, monkeypatch
):
    chosen = [sample for sample in read_samples(inputs["phantoms"]) if sample.task == "yes_no"]
    in_folds: list[Sample] = [
        sample.model_copy(update={"split": f"fold-{index % 2}"}) for index, sample in enumerate(chosen)
    ]
    write_samples(in_folds, tmp_path / "folds")
    for fold in ("fold-0", "fold-1"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / fold).symlink_to(model_folder)
    loaded: list[str] = []
    monkeypatch.setattr(
        "pathloom.evaluate.generative.load_model",
        noting(lambda folder: loaded.append(Path(folder).name), load_model),
    )
    asked = record_batches(monkeypatch)

    run_evaluate(
        config(benchmarks=("phantom_presence",), controls=()),
        {"phantoms": tmp_path / "folds", "sft": tmp_path / "models"},
        tmp_path,
    )

    assert loaded == ["fold-0", "fold-1"]
    ids = {f"fold-{fold}": {s.id for s in in_folds if s.split == f"fold-{fold}"} for fold in range(2)}
    assert [{key[2] for key in batch} for batch in asked] == [ids["fold-0"], ids["fold-1"]]


def test_masks_are_drawn_by_the_segmenter_that_is_named(model_folder, tmp_path, monkeypatch):
    sample = make_mask_sample("mask")
    write_samples([sample], tmp_path / "masks")
    task, template = find_task("mask"), find_benchmark("masks_found").pinned_template()
    answer = task.target(sample, template, "direct")
    monkeypatch.setattr(generative, "generate", lambda *_: [answer])
    monkeypatch.setattr(generative, "load_segmenter", {"classical": None, "sam:some/where": fill_boxes}.get)
    entry = {"samples": ("masks",), "benchmarks": ("masks_found",), "controls": ()}
    dice = {}
    for name in ("classical", "sam:some/where"):
        out = tmp_path / name.replace("/", "-")
        out.mkdir()
        run_evaluate(config(**entry, segmenter=name), {"masks": tmp_path / "masks", "sft": model_folder}, out)
        dice[name] = read_jsonl(out / SCORES)[0]["correct"]

    assert dice["classical"] == 1.0
    assert 0.5 < dice["sam:some/where"] < 1.0


def test_a_segmenter_that_does_not_exist_is_told_before_anything_runs():
    config().check()
    with pytest.raises(UserError, match="no segmenter 'grabcut'"):
        config(segmenter="grabcut").check()
