"""A file of published outputs in, one dictionary of plain JSON out, and messages that say what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from pathloom.evaluate.score_file import score_file


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "outputs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_counts_in_tags_are_graded_and_the_result_is_plain_json(tmp_path: Path):
    path = write(
        tmp_path,
        {
            "completion": "<think>three and four</think><answer>7</answer>",
            "answer": 7,
            "model": "any key is allowed",
        },
        {"completion": "<answer>9</answer>", "answer": "7"},
        {"completion": "7", "answer": 7},
        {"completion": "<answer>1</answer>", "answer": 1},
    )
    result = score_file(path, "count")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert {key: result[key] for key in ("task", "metric", "parse", "n", "num_groups", "resampled")} == {
        "task": "count", "metric": "accuracy", "parse": "tagged", "n": 4, "num_groups": 4, "resampled": "group",
    }  # fmt: skip
    assert result["value"] == result["accuracy"] == 0.5
    assert result["parse_rate"] == 0.75
    assert result["chance"] == 0.75
    assert result["mean_absolute_error"] == pytest.approx(2 / 3)
    assert 0 <= result["low"] < 0.5 < result["high"] <= 1
    assert result["intervals"]["accuracy"] == [result["low"], result["high"]]


def test_the_free_parser_reads_what_the_strict_one_does_not(tmp_path: Path):
    path = write(tmp_path, *[{"completion": "There are seven.", "answer": 7}] * 2)
    assert score_file(path, "count", parse="tagged")["parse_rate"] == 0
    assert score_file(path, "count", parse="free")["value"] == 1


def test_a_metric_that_cannot_be_computed_is_none(tmp_path: Path):
    result = score_file(write(tmp_path, {"completion": "?", "answer": 7}), "count")
    assert result["mean_absolute_error"] is None
    assert result["intervals"]["mean_absolute_error"] == [None, None]


def test_choices_take_a_letter_or_a_text_on_both_sides(tmp_path: Path):
    options = ["fibrosis", "necrosis"]
    path = write(
        tmp_path,
        {"completion": "Final answer: B", "answer": "necrosis", "choices": options},
        {"completion": "Final answer: necrosis", "answer": "B", "choices": options},
        {"completion": "It is necrosis.", "answer": "b", "choices": options},
        {"completion": "Final answer: fibrosis", "answer": "B", "choices": options},
        {"completion": "Final answer: J", "answer": "J"},
        {"completion": "Final answer: J", "answer": "A"},
    )
    assert score_file(path, "choice", parse="free")["value"] == pytest.approx(4 / 6)


def test_the_other_tasks_are_graded_too(tmp_path: Path):
    cases: dict[str, dict[str, Any]] = {
        "yes_no": {"completion": "<answer>Yes</answer>", "answer": "yes"},
        "label": {"completion": "<answer>lsil</answer>", "answer": "lsil", "choices": ["hsil", "lsil"]},
        "short_answer": {"completion": "<answer>clear cell</answer>", "answer": "Clear cell."},
        "caption": {"completion": "<answer>pink glands</answer>", "answer": "pink glands"},
    }
    for task, line in cases.items():
        assert score_file(write(tmp_path, line), task)["value"] == 1.0, task


def test_labels_without_a_set_may_be_whole_numbers(tmp_path: Path):
    path = write(tmp_path, {"completion": '{"quality_score": 2}', "answer": 2})
    assert score_file(path, "label", parse="free")["value"] == 1.0


def test_boxes_are_compared_in_the_frame_of_the_file(tmp_path: Path):
    path = write(
        tmp_path,
        {
            "completion": "at <region>10 10 20 20</region>",
            "regions": [[10, 10, 20, 20], [600, 700, 900, 990.5]],
        },
        {"completion": "at <region>0 0 5 5</region> and <region>1 2 3", "regions": [[10, 10, 20, 20]]},
        {"completion": "nothing", "regions": [[10, 10, 20, 20]]},
    )
    result = score_file(path, "boxes", parse="free")
    assert result["metric"] == "f1"
    assert result["precision"] == pytest.approx(1 / 2)
    assert result["recall"] == pytest.approx(1 / 4)
    assert result["value"] == result["f1"] == pytest.approx(2 / 6)
    assert result["ap50"] == pytest.approx((0.5 + 0 + 0) / 3)
    assert result["parse_rate"] == pytest.approx(2 / 3)


def test_strict_boxes_are_pixels_not_thousandths(tmp_path: Path):
    line = {"completion": "<answer>[[10,10,20,20]]</answer>", "regions": [[10, 10, 20, 20]]}
    result = score_file(write(tmp_path, line), "boxes")
    assert result["value"] == 1.0
    assert result["chance"] == pytest.approx(1.0)  # one line: the mean box is its box


def test_lines_of_one_group_are_resampled_together(tmp_path: Path):
    lines = [{"completion": f"<answer>{k % 2}</answer>", "answer": 0, "group": k % 2} for k in range(40)]
    grouped = score_file(write(tmp_path, *lines), "count")
    assert (grouped["num_groups"], grouped["low"], grouped["high"]) == (2, 0.0, 1.0)
    single = score_file(write(tmp_path, *[{**line, "group": None} for line in lines]), "count")
    assert single["num_groups"] == 40
    assert single["high"] - single["low"] < 0.4
    one = score_file(write(tmp_path, *[{**line, "group": "only"} for line in lines]), "count")
    assert one["resampled"] == "sample"


def test_the_result_is_the_same_each_time_and_follows_the_number_of_resamples(tmp_path: Path):
    path = write(tmp_path, *[{"completion": f"<answer>{k % 3}</answer>", "answer": 0} for k in range(50)])
    assert score_file(path, "count") == score_file(path, "count")
    assert score_file(path, "count", num_resamples=50)["low"] != score_file(path, "count")["low"]


def test_grades_of_single_lines_are_written_when_asked_for(tmp_path: Path):
    path = write(
        tmp_path,
        {"completion": "<answer>9</answer>", "answer": 7, "id": "first", "group": "slide-1"},
        {"completion": "?", "answer": 7},
    )
    out = tmp_path / "new" / "grades.jsonl"
    score_file(path, "count", out=out)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"id": "first", "group": "slide-1", "answer": 9, "correct": 0.0, "parts": {"absolute_error": 2.0}},
        {"id": "line-2", "group": "line-2", "answer": None, "correct": 0.0, "parts": {}},
    ]
    assert [entry.name for entry in out.parent.iterdir()] == ["grades.jsonl"]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path):
    path = tmp_path / "outputs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"completion":"<answer>7</answer>","answer":7}\r\n\r\n')
    assert score_file(path, "count")["n"] == 1


GOOD = {"completion": "x", "answer": 7}


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("count", "{not json", r"outputs\.jsonl:2: not a line of JSON .* write one JSON object a line"),
        ("count", "[1]", r":2: a JSON list, not an object"),
        ("count", "[" * 100_000, r":2: not a line of JSON"),
        ("count", {"answer": 7}, r":2: completion: missing or not text; give the model's whole output"),
        ("count", {"completion": 7, "answer": 7}, r":2: completion: missing or not text"),
        ("count", {"completion": "x"}, r":2: answer: missing or empty; give the right answer"),
        ("count", {"completion": "x", "answer": " "}, r":2: answer: missing or empty"),
        (
            "count",
            {"completion": "x", "answer": "many"},
            r":2: answer: .*whole number, not 'many'.*task count",
        ),
        ("count", {"completion": "x", "answer": 7.5}, r":2: answer: 7.5 is neither text nor a whole number"),
        ("count", {"completion": "x", "answer": True}, r":2: answer: true is neither"),
        (
            "count",
            {**GOOD, "id": "line-1"},
            r":2: id: 'line-1' also stands in line 1; give every line its own id",
        ),
        ("count", {**GOOD, "group": ["a"]}, r':2: group: \["a"\] is neither'),
        (
            "label",
            {"completion": "x", "answer": "z", "choices": ["a", "b"]},
            r""":2: answer: 'z' is not among \["a",""",
        ),
        ("label", {"completion": "x", "answer": "a", "choices": []}, r":2: choices: not a list of texts"),
        ("label", {"completion": "x", "answer": "a", "choices": [1]}, r":2: choices: not a list of texts"),
    ],
)
def test_a_line_that_cannot_be_scored_is_named_with_its_key_and_a_cure(
    tmp_path: Path, task: str, line: Any, message: str
):
    with pytest.raises(ValueError, match=message):
        score_file(write(tmp_path, GOOD, line), task)


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        (
            "choice",
            {"completion": "x", "answer": "necrosis"},
            r":1: answer: 'necrosis' is not among the letters A to Z",
        ),
        (
            "choice",
            {"completion": "x", "answer": "C", "choices": ["a1", "b1"]},
            r":1: answer: 'C' is not among",
        ),
        (
            "choice",
            {"completion": "x", "answer": "a", "choices": ["a"] * 27},
            r":1: choices: 27 options; .*26 at most",
        ),
        ("choice", {"completion": "x", "answer": "xy", "choices": ["xy", "xy"]}, r":1: answer: .*not one of"),
        ("yes_no", {"completion": "x", "answer": "maybe"}, r":1: answer: .*yes or no, not 'maybe'"),
        ("boxes", {"completion": "x"}, r":1: regions: missing or not a list; give the true boxes"),
        (
            "boxes",
            {"completion": "x", "regions": [[1, 2, 3]]},
            r":1: regions: \[1, 2, 3\] is not four numbers",
        ),
        ("boxes", {"completion": "x", "regions": [[5, 5, 1, 1]]}, r":1: regions: .* has no area; x1 < x2"),
        ("boxes", {"completion": "x", "regions": [[1, 1, float("nan"), 9]]}, r":1: regions: .* has no area"),
        ("boxes", {"completion": "x", "regions": [[1, 1, 10**400, 9]]}, r":1: regions: .* has no area"),
    ],
)
def test_the_truth_must_be_one_that_the_task_can_have(tmp_path: Path, task: str, line: Any, message: str):
    with pytest.raises(ValueError, match=message):
        score_file(write(tmp_path, line), task)


def test_an_empty_file_an_unknown_task_and_an_unknown_parser_are_refused(tmp_path: Path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(ValueError, match=r"empty\.jsonl: no lines to score"):
        score_file(empty, "count")
    with pytest.raises(ValueError, match="no task 'segment'; known: choice"):
        score_file(empty, "segment")
    with pytest.raises(ValueError, match="must be 'tagged' or 'free'"):
        score_file(empty, "count", parse="loose")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        score_file(tmp_path / "absent.jsonl", "count")


def test_masks_need_the_picture_which_a_file_of_outputs_does_not_hold(tmp_path: Path):
    with pytest.raises(ValueError, match="score its boxes as task boxes"):
        score_file(write(tmp_path, GOOD), "mask")


def test_a_file_that_cannot_be_scored_leaves_no_grades(tmp_path: Path):
    with pytest.raises(ValueError, match=":2:"):
        score_file(write(tmp_path, GOOD, "{"), "count", out=tmp_path / "grades.jsonl")
    assert not (tmp_path / "grades.jsonl").exists()
