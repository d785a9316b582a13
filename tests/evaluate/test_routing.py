"""The board that says which expert answers what, and the control that tells a mixture the wrong scale and task."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import make_image, make_sample
from tests.models.experts_helpers import REGION_BOXES, REGION_CHOICE, SLIDE_CHOICE, mixed, mixture, prompts

from pathloom.card import read_card, write_card
from pathloom.evaluate.config import EvaluateConfig
from pathloom.evaluate.generative import PREDICTIONS, run_evaluate
from pathloom.evaluate.report_records import BOARDS_FILE, Measured
from pathloom.evaluate.routing import keep_board, routing_board
from pathloom.evaluate.select import wrong_route
from pathloom.models.experts import attach_experts, gates_of, routed
from pathloom.models.experts_config import UNKNOWN, route_of
from pathloom.models.load import load_model
from pathloom.stage import UserError, read_jsonl

ASKED = {SLIDE_CHOICE: (0, 1), REGION_BOXES: (2,)}
HARD = {"routing": "hard", "routes": {"region": 0, "slide": 1, "boxes": 2}}


def encode(rows: Any) -> Any:
    return prompts(len(rows))


def test_a_row_of_the_board_is_the_mean_over_layers_of_what_each_expert_has_to_say(model_folder):
    model = mixed(model_folder, names=("regions", "slides"))

    board = routing_board("measured", model, ASKED, encode)

    assert board is not None
    assert [row.name for row in board.rows] == ["region/boxes", "slide/choice", "unknown/unknown"]
    assert board.columns == (
        *("expert 0 (regions): mean gate", "expert 1 (slides): mean gate", "expert 2: mean gate"),
        *("expert 0 (regions): largest", "expert 1 (slides): largest", "expert 2: largest"),
    )
    for row, route in zip(board.rows, (REGION_BOXES, SLIDE_CHOICE, UNKNOWN), strict=True):
        gates = gates_of(model, route)
        assert row.values[:3] == pytest.approx(gates.mean(dim=0).tolist(), abs=1e-6)
        most = Counter(gates.argmax(dim=-1).tolist())
        assert row.values[3:] == pytest.approx([most[expert] / len(gates) for expert in range(3)])


def test_experts_with_the_same_say_share_the_largest_gate(model_folder):
    model, _ = load_model(str(model_folder))
    attach_experts(model, mixture(num_experts=2))

    board = routing_board("measured", model, ASKED, encode)

    assert board is not None
    assert {row.values for row in board.rows} == {(0.5, 0.5, 0.5, 0.5)}


def test_hard_routing_gives_each_row_one_expert(model_folder):
    board = routing_board("measured", mixed(model_folder, **HARD), ASKED, encode)

    assert board is not None
    assert {row.name: row.values[:3] for row in board.rows} == {
        "region/boxes": (0, 0, 1),
        "slide/choice": (0, 1, 0),
    }


def test_a_token_gate_is_averaged_over_the_tokens_of_prompts_without_their_padding(model_folder):
    model = mixed(model_folder, token_gate=True)

    both = routing_board("measured", model, ASKED, encode)
    one_of_them = routing_board("measured", model, {SLIDE_CHOICE: (0,)}, encode)

    assert both is not None
    assert one_of_them is not None
    assert [row.name for row in both.rows] == ["region/boxes", "slide/choice"]
    for row in (*both.rows, *one_of_them.rows):
        assert sum(value or 0 for value in row.values[:3]) == pytest.approx(1, abs=1e-5)
    assert both.rows[1].values != one_of_them.rows[0].values


def test_plain_models_and_one_lora_for_all_have_no_board(model_folder, tmp_path):
    shared = mixed(model_folder, routing="shared", num_experts=1)

    for model in (load_model(str(model_folder))[0], shared):
        board = routing_board("measured", model, ASKED, encode)
        assert board is None
        keep_board(board, tmp_path)
    assert not (tmp_path / BOARDS_FILE).exists()


def test_a_board_takes_the_place_of_the_one_with_its_title(model_folder, tmp_path):
    model = mixed(model_folder, **HARD)
    for title, asked in (("one", ASKED), ("other", ASKED), ("one", {SLIDE_CHOICE: (0,)})):
        keep_board(routing_board("measured", model, asked, encode, title=title), tmp_path)

    boards = Measured.model_validate_json((tmp_path / BOARDS_FILE).read_bytes()).boards
    assert [(board.title, len(board.rows)) for board in boards] == [("other", 2), ("one", 1)]


def test_a_wrong_route_is_of_another_scale_and_task_where_one_is():
    slide = make_sample("s", task="choice", images=(make_image().model_copy(update={"slide": "a"}),))
    boxes = make_sample("b", task="boxes")
    assert (route_of(slide), route_of(boxes)) == (SLIDE_CHOICE, REGION_BOXES)
    counts = {SLIDE_CHOICE: 5, REGION_BOXES: 3, REGION_CHOICE: 90}

    assert {wrong_route(slide, counts, seed) for seed in range(20)} == {REGION_BOXES}
    assert {wrong_route(boxes, counts, seed) for seed in range(20)} == {SLIDE_CHOICE}
    assert wrong_route(boxes, {REGION_BOXES: 3, REGION_CHOICE: 1}, 0) == REGION_CHOICE
    assert wrong_route(boxes, {REGION_BOXES: 3}, 0) is None


def test_wrong_routes_are_drawn_by_seed_and_as_often_as_rows_have_them():
    samples = [make_sample(f"sample {index}", task="count") for index in range(400)]
    counts = {REGION_BOXES: 30, REGION_CHOICE: 10, route_of(samples[0]): 400}

    drawn = [wrong_route(sample, counts, 1) for sample in samples]

    assert drawn == [wrong_route(sample, counts, 1) for sample in samples]
    assert drawn != [wrong_route(sample, counts, 2) for sample in samples]
    assert 0.65 < drawn.count(REGION_BOXES) / 400 < 0.85


@pytest.fixture
def mixture_folder(model_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "mixture"
    mixed(model_folder, routing="hard", routes={"choice": 0, "yes_no": 1, "boxes": 2}).save_pretrained(folder)
    load_model(str(model_folder))[1].save_pretrained(folder)
    write_card(read_card(model_folder), folder)
    return folder


def evaluate(folder: Path, **fields: Any) -> EvaluateConfig:
    given = {
        "name": "measured",
        "kind": "evaluate",
        "model": {"folder": str(folder)},
        "samples": ("phantoms",),
        "benchmarks": ("phantom_diagnosis", "phantom_presence"),
        "controls": ("shuffled_routes",),
        "limit": 3,
        "max_new_tokens": 4,
        "num_resamples": 100,
    }
    return EvaluateConfig.model_validate({**given, **fields})


def test_an_evaluation_tells_the_route_of_each_row_and_leaves_the_board(
    mixture_folder, phantom_folder, tmp_path, monkeypatch
):
    told: list[tuple[str, ...]] = []

    def noted(model: Any, routes: Any) -> Any:
        told.append(tuple(map(str, routes)))
        return routed(model, routes)

    monkeypatch.setattr("pathloom.evaluate.generative.routed", noted)

    run_evaluate(evaluate(mixture_folder), {"phantoms": phantom_folder}, tmp_path)

    right = [("region/choice",) * 3, ("region/yes_no",) * 3]
    assert told == [right[0], right[1], right[1], right[0]], (
        "each benchmark, plain and then with wrong routes"
    )
    assert len(read_jsonl(tmp_path / PREDICTIONS)) == 12
    (board,) = json.loads((tmp_path / BOARDS_FILE).read_text())["boards"]
    assert board["title"] == "Routing of measured"
    assert [row["name"] for row in board["rows"]] == ["region/choice", "region/yes_no"]


def test_wrong_routes_need_rows_of_two_kinds(mixture_folder, phantom_folder, tmp_path):
    config = evaluate(mixture_folder, benchmarks=("phantom_diagnosis",))

    with pytest.raises(UserError, match="shuffled_routes needs benchmarks of two scales or tasks"):
        run_evaluate(config, {"phantoms": phantom_folder}, tmp_path)
