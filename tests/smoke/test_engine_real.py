"""The data engine on real captions, with SmolLM2 as teacher behind a real local server: small counts, nothing lost.

SmolLM2-135M writes poorly. What is tested is that every row is kept, repaired or dropped with a reason, and that cost,
resume and review work on real text. The longer run (make slow) prints what came of it.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.curate.real_pairs import Row, write_table
from tests.generate.served import serving

from pathloom.cli import main
from pathloom.curate.words import SUBFIELDS, TAUGHT
from pathloom.generate.local import Local, open_local
from pathloom.schema import Drop, Sample
from pathloom.stage import MANIFEST_FILE, UserError
from pathloom.store import read_samples


@pytest.fixture(scope="module")
def smollm2() -> Local:
    try:
        return open_local("smollm2", batch_size=16, dtype="bfloat16", structured=True)
    except UserError as error:
        pytest.skip(str(error))


def recipe(folder: Path, table: Path, root: Path, url: str, **teacher: Any) -> Path:
    """Captions to reasoning, all in the open: the same stages as recipes/patho_r1.yaml up to its checks."""
    stages: list[dict[str, Any]] = [
        {
            "name": "pairs",
            "kind": "ingest",
            "source": "pairs",
            "table": str(table),
            "root": str(root),
            "images": "optional",
            "licences": ["^CC( BY|0)", "none given"],
        },
        {
            "name": "labelled",
            "kind": "curate",
            "samples": ["pairs"],
            "steps": [{"step": "subfield", "by": "words", "keep": list(TAUGHT)}, {"step": "organ"}],
        },
        {
            "name": "reasoning",
            "kind": "reason",
            "samples": ["labelled"],
            "per_sample": 1,
            "level": "easy",
            "teacher": {
                "generator": {
                    "endpoint": {
                        "url": url,
                        "model": "SmolLM2",
                        "settings": {"connections": 16, "timeout_s": 1800},
                    }
                },
                "sampling": {"temperature": 0.2, "max_tokens": 96},
                "prices": {"SmolLM2": {"prompt": 1.0, "completion": 2.0}},
                "attempts": 1,
                "max_unreadable": 1.0,
                **teacher,
            },
        },
        {
            "name": "checked",
            "kind": "curate",
            "samples": ["reasoning"],
            "steps": [{"step": "reasoning_filter"}, {"step": "near_duplicates"}],
        },
        {
            "name": "report",
            "kind": "report",
            "title": "Real captions",
            "stages": ["labelled", "reasoning", "checked"],
            "samples": ["pairs"],
        },
    ]
    path = folder / "engine.yaml"
    path.write_text(yaml.safe_dump({"name": "engine", "stages": stages}, sort_keys=False))
    return path


def stage(runs: Path, name: str) -> tuple[list[Sample], list[Drop], dict[str, Any]]:
    (folder,) = runs.glob(f"{name}-*")
    drops = [
        Drop.model_validate_json(line)
        for path in sorted((folder / "drops").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    counts = json.loads((folder / MANIFEST_FILE).read_text())["counts"]
    return list(read_samples(folder)), drops, counts


def some(rows: list[Row], count: int, path: Path) -> list[Row]:
    """Rows spread over the three collections."""
    chosen = rows[:: max(len(rows) // count, 1)][:count]
    path.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    return chosen


def accounted(runs: Path, num_rows: int) -> dict[str, Counter[str]]:
    """Checks that no row is lost between two stages; returns what each stage dropped, by reason."""
    pairs, pairs_dropped, _ = stage(runs, "pairs")
    assert len(pairs) + len(pairs_dropped) == num_rows
    labelled, labelled_dropped, _ = stage(runs, "labelled")
    assert len(labelled) + len(labelled_dropped) == len(pairs)
    written, unwritten, _ = stage(runs, "reasoning")
    assert len(written) + len(unwritten) == len(labelled)
    checked, refused, _ = stage(runs, "checked")
    assert len(checked) + len(refused) == len(written)
    dropped = {
        "pairs": pairs_dropped,
        "labelled": labelled_dropped,
        "reasoning": unwritten,
        "checked": refused,
    }
    assert all(drop.reason for drops in dropped.values() for drop in drops)
    return {name: Counter(drop.reason for drop in drops) for name, drops in dropped.items()}


def test_all_real_captions_are_kept_and_labelled_or_dropped_with_a_reason(tmp_path, data_root):
    rows = write_table(data_root, tmp_path / "pairs.jsonl")
    path = recipe(tmp_path, tmp_path / "pairs.jsonl", data_root, "http://127.0.0.1:1/v1")
    recipe_data = yaml.safe_load(path.read_text())
    recipe_data["stages"] = recipe_data["stages"][:2]
    path.write_text(yaml.safe_dump(recipe_data))
    assert main(["run", str(path), "--runs", str(tmp_path / "runs")]) == 0
    pairs, dropped, _ = stage(tmp_path / "runs", "pairs")
    labelled, unlabelled, _ = stage(tmp_path / "runs", "labelled")
    assert len(pairs) + len(dropped) == len(rows)
    assert len(labelled) + len(unlabelled) == len(pairs)
    reasons = Counter(drop.reason for drop in dropped)
    forbidden = sum(row["licence"] == "NO-CC CODE" for row in rows)
    assert reasons["licence"] == forbidden > 0
    assert not any(re.search(r"</?(?:b|i|em|li|ul|p|br)\b", sample.answer) for sample in pairs), (
        "markup is gone"
    )
    assert all(sample.answer.isprintable() for sample in pairs)
    assert {sample.subfield for sample in labelled} <= set(TAUGHT) < set(SUBFIELDS)
    assert len({sample.organ for sample in labelled}) > 10
    print(f"{len(rows)} rows; dropped {dict(reasons)}; {dict(Counter(s.subfield for s in labelled))} taught")


def test_a_few_go_the_whole_way_and_a_second_run_pays_nothing(tmp_path, data_root, smollm2, capsys):
    rows = some(write_table(data_root, tmp_path / "all.jsonl"), 20, tmp_path / "pairs.jsonl")
    runs = tmp_path / "runs"
    with serving(smollm2) as server:
        path = recipe(tmp_path, tmp_path / "pairs.jsonl", data_root, server.url)
        arguments = ["run", str(path), "--runs", str(runs)]
        assert main([*arguments, "--set", "reasoning.teacher.max_requests=2"]) == 1
        assert "max_requests 2 is reached" in capsys.readouterr().err
        assert main(arguments) == 0
    accounted(runs, len(rows))
    written, dropped, counts = stage(runs, "reasoning")
    assert counts["reused"] == 2
    assert counts["asked"] == len(written) + len(dropped) - 2
    assert counts["cost"] == pytest.approx(
        (counts["prompt_tokens"] + 2 * counts["completion_tokens"]) / 1e6, abs=1e-6
    )
    assert counts["prompt_tokens"] > 100 * counts["asked"]
    for drop in dropped:
        assert drop.reason == "unreadable_answer"
        assert len(drop.detail) > 20, "the reply is kept, so that somebody can see what went wrong"

    # The server is gone. What was paid for is all there: the stage is made anew from the store alone.
    (folder,) = runs.glob("reasoning-*")
    before = (folder / "samples" / "00000.parquet").read_bytes()
    folder.rename(tmp_path / "aside")
    assert main(arguments) == 0
    assert (folder / "samples" / "00000.parquet").read_bytes() == before
    page = tmp_path / "review.html"
    review = [
        "review",
        str(runs / next(runs.glob("labelled-*")).name),
        "--field",
        "subfield",
        "--out",
        str(page),
    ]
    assert main(review) == 0
    assert page.stat().st_size > 10_000
    assert (runs / "engine" / "report.html").is_file()


@pytest.mark.slow
def test_more_real_captions_with_longer_answers(tmp_path, data_root, smollm2):
    rows = some(write_table(data_root, tmp_path / "all.jsonl"), 120, tmp_path / "pairs.jsonl")
    runs = tmp_path / "runs"
    with serving(smollm2) as server:
        path = recipe(
            tmp_path,
            tmp_path / "pairs.jsonl",
            data_root,
            server.url,
            sampling={"temperature": 0.2, "max_tokens": 200},
            attempts=2,
        )
        assert main(["run", str(path), "--runs", str(runs)]) == 0
    dropped = accounted(runs, len(rows))
    _, _, counts = stage(runs, "reasoning")
    checked, _, _ = stage(runs, "checked")
    print(json.dumps({name: dict(reasons) for name, reasons in dropped.items()}, indent=1))
    print(
        {name: counts[name] for name in ("asked", "prompt_tokens", "completion_tokens", "cost", "asking_s")}
    )
    for sample in checked:
        print(
            sample.task,
            "|",
            sample.context[:120],
            "|",
            sample.question,
            "|",
            sample.answer,
            "|",
            sample.reasoning,
        )
