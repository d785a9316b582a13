"""The command `pathloom benchmark`."""

import json
from pathlib import Path

import pytest
from tests.evaluate.test_single_choice import cell

from pathloom.cli import main
from pathloom.stage import MANIFEST_FILE, write_json
from pathloom.store import read_samples, write_samples


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a finished stage `cells` under runs/."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "cells-0123456789ab"
    write_samples([cell("a"), cell("b", finding="NILM"), cell("c", split="train")], folder)
    write_json({"stage": "cells", "key": "0123456789ab", "seconds": 1.0}, folder / MANIFEST_FILE)
    return tmp_path


def test_a_benchmark_is_made_of_a_stage_by_its_name(home, capsys):
    assert main(["benchmark", "morphopercept", "cells", "--out", "asked", "--set", "language=zh"]) == 0

    assert [item.split for item in read_samples(home / "asked")] == ["test", "test"]
    manifest = json.loads((home / "asked" / MANIFEST_FILE).read_text())
    assert manifest["inputs"] == {"cells-0123456789ab": "cells-0123456789ab"}
    assert manifest["config"]["language"] == "zh"
    assert "2 kept" in capsys.readouterr().out
    assert "## Balance" in (home / "asked" / "card.md").read_text()


def test_a_stage_by_name_and_by_folder_is_the_same_benchmark(home, capsys):
    main(["benchmark", "cytocell", "cells", "--out", "asked"])
    capsys.readouterr()

    assert main(["benchmark", "cytocell", "runs/cells-0123456789ab", "--out", "asked"]) == 0
    assert "done before" in capsys.readouterr().out


def test_a_benchmark_of_a_stage_that_was_made_anew_is_not_taken_for_the_old_one(home, capsys):
    main(["benchmark", "cytocell", "runs/cells-0123456789ab", "--out", "asked"])
    path = home / "runs" / "cells-0123456789ab" / MANIFEST_FILE
    write_json({"stage": "cells", "key": "another", "seconds": 1.0}, path)

    assert main(["benchmark", "cytocell", "runs/cells-0123456789ab", "--out", "asked"]) == 1
    assert "holds the result of other settings or files" in capsys.readouterr().err


def test_a_stage_that_is_not_there_and_a_folder_without_samples_are_named(home, capsys):
    assert main(["benchmark", "cytocell", "herlev", "--out", "asked"]) == 1
    assert "herlev: no finished stage of that name or folder" in capsys.readouterr().err

    (home / "bare").mkdir()
    write_json({"key": "x"}, home / "bare" / MANIFEST_FILE)
    assert main(["benchmark", "cytocell", "bare", "--out", "asked"]) == 1
    assert "holds no samples/*.parquet" in capsys.readouterr().err


def test_two_folders_of_one_name_are_told_apart_by_renaming(home, capsys):
    other = home / "elsewhere" / "cells-0123456789ab"
    other.mkdir(parents=True)
    write_json({"key": "x"}, other / MANIFEST_FILE)

    assert main(["benchmark", "cytocell", "cells", str(other), "--out", "asked"]) == 1
    assert "another folder is called cells-0123456789ab too" in capsys.readouterr().err
