import errno
import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from tests.fixtures import noting

from pathloom import run, shards
from pathloom.ingest.phantom import PhantomConfig
from pathloom.models.init import InitConfig
from pathloom.recipe import Recipe, load_recipe
from pathloom.run import PARTIAL, plan, run_recipe
from pathloom.stage import MANIFEST_FILE, UserError
from pathloom.store import count_records, read_samples

RECIPE = """
name: small
stages:
  - {name: phantoms, kind: ingest, source: phantom, size_px: 64, train: {presence: 4}, test: {presence: 2}}
  - {name: untrained, kind: init, samples: [phantoms]}
  - {name: after, kind: evaluate, model: {stage: untrained}, samples: [phantoms], benchmarks: [phantom_presence]}
  - {name: report, kind: report, stages: [after], samples: [phantoms]}
"""


class Workshop:
    """Runs RECIPE with stand-ins for all kinds but ingest, and notes which of them ran."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.runs = root / "runs"
        self.ran: list[str] = []
        self.said: list[str] = []
        for kind in ("init", "evaluate", "report"):
            monkeypatch.setitem(run.RUNNERS, kind, self._stand_in)

    def _stand_in(self, config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        self.ran.append(config.name)
        for folder in inputs.values():
            assert (folder / MANIFEST_FILE).is_file()
        (out / "made.txt").write_text("done")
        if config.kind == "report":
            (out / "report.json").write_text(json.dumps({"title": config.title}))
        return {"things": 1}

    def run(self, *overrides: str) -> Path | None:
        self.ran.clear()
        self.said.clear()
        return run_recipe(self.recipe(*overrides), self.runs, self.said.append)

    def recipe(self, *overrides: str) -> Recipe:
        path = self.root / "small.yaml"
        path.write_text(RECIPE)
        return load_recipe(path, overrides)

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.runs.iterdir() if path.name != PARTIAL)

    def one(self, name: str) -> Path:
        (folder,) = self.runs.glob(f"{name}-*")
        return folder

    def error(self, *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            self.run(*overrides)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)


def test_a_run_leaves_a_folder_for_each_stage_and_the_report_under_the_name_of_the_recipe(workshop):
    report = workshop.run()

    assert report == workshop.runs / "small"
    assert sorted(path.name for path in report.iterdir()) == ["report.json"]
    assert [name.split("-")[0] for name in workshop.folders()] == [
        "after",
        "phantoms",
        "report",
        "small",
        "untrained",
    ]
    assert [path.name for path in (workshop.runs / PARTIAL).iterdir()] == ["lock"]


def test_a_manifest_says_what_was_made_from_what(workshop):
    workshop.run()

    manifest = json.loads((workshop.one("after") / MANIFEST_FILE).read_text())

    assert manifest["stage"] == "after"
    assert manifest["kind"] == "evaluate"
    assert manifest["counts"] == {"things": 1}
    assert manifest["inputs"] == {
        "phantoms": workshop.one("phantoms").name,
        "untrained": workshop.one("untrained").name,
    }
    assert manifest["config"]["benchmarks"] == ["phantom_presence"]
    assert manifest["key"] == workshop.one("after").name.split("-")[1]
    assert {"torch", "transformers", "trl"} <= manifest["packages"].keys()
    counts = json.loads((workshop.one("phantoms") / MANIFEST_FILE).read_text())["counts"]
    assert counts == {"samples": 6, "by_split_and_task": {"test/yes_no": 2, "train/yes_no": 4}, "drops": {}}


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"samples": 4, "drops": {}}, "; 4 kept"),
        ({"samples": 4, "drops": {"truncated": 2}}, "; 4 kept, 2 dropped (truncated 2)"),
        ({"pairs": 4, "drops": {"cut_off": 1}}, "; 1 dropped (cut_off 1)"),
        ({"pairs": 4, "drops": {}}, ""),
        ({"steps": 4}, ""),
    ],
)
def test_what_a_stage_dropped_is_said_even_if_it_keeps_no_samples(counts, said):
    assert run._kept_and_dropped(counts) == said


def test_packages_of_extras_are_recorded_where_they_are_installed(monkeypatch):
    monkeypatch.setattr(run, "_RECORDED_EXTRAS", ("numpy", "no-such-package"))
    assert run._extras().keys() == {"numpy"}


def test_finished_stages_are_skipped(workshop):
    workshop.run()
    before = {path: path.stat().st_mtime_ns for path in workshop.runs.rglob("*-*/*")}

    workshop.run()

    assert workshop.ran == []
    assert all("done before" in line for line in workshop.said)
    assert {path: path.stat().st_mtime_ns for path in workshop.runs.rglob("*-*/*")} == before


def test_a_changed_key_reruns_its_stage_and_what_follows(workshop):
    workshop.run()

    workshop.run("after.max_new_tokens=7")
    assert workshop.ran == ["after", "report"]

    workshop.run("phantoms.seed=1")
    assert workshop.ran == ["untrained", "after", "report"]

    workshop.run()
    assert workshop.ran == [], "the first results are still there"


def test_a_raised_version_reruns_its_stage_and_what_follows(workshop, monkeypatch):
    workshop.run()
    monkeypatch.setattr(InitConfig, "version", InitConfig.version + 1)

    workshop.run()

    assert workshop.ran == ["untrained", "after", "report"]


def test_keys_are_the_same_in_every_process_and_differ_between_stages(workshop):
    workshop.run()
    recipe = workshop.recipe()

    keys = [planned.key for planned in plan(recipe, Path("elsewhere"))]

    assert keys == [workshop.one(config.name).name.split("-")[1] for config in recipe.stages]
    assert len(set(keys)) == 4


def test_a_stage_that_was_cut_off_goes_on_with_what_it_had(workshop, monkeypatch):
    def cut_off(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        (out / "half").write_text("kept")
        raise KeyboardInterrupt

    def goes_on(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        assert (out / "half").read_text() == "kept"
        return {}

    monkeypatch.setitem(run.RUNNERS, "evaluate", cut_off)
    with pytest.raises(KeyboardInterrupt):
        workshop.run()
    assert not any(name.startswith("after") for name in workshop.folders())

    monkeypatch.setitem(run.RUNNERS, "evaluate", goes_on)
    workshop.run()

    assert workshop.ran == ["report"]
    assert (workshop.one("after") / "half").read_text() == "kept"


def test_shards_that_were_finished_are_not_made_again(workshop, monkeypatch):
    monkeypatch.setattr(shards, "UNITS_PER_SHARD", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    read = PhantomConfig.read
    asked: list[Any] = []

    def until_the_fourth(self: PhantomConfig, unit: Any) -> Any:
        asked.append(unit)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return read(self, unit)

    with monkeypatch.context() as patch:
        patch.setattr(PhantomConfig, "read", until_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            workshop.run()
    asked.clear()
    monkeypatch.setattr(PhantomConfig, "read", noting(lambda config, unit: asked.append(unit), read))
    workshop.run()

    assert len(asked) == 4, "the first shard of two was there"
    assert [sample.id for sample in read_samples(workshop.one("phantoms"))] == [
        *(f"phantom/presence/train/{index:05d}" for index in range(4)),
        *(f"phantom/presence/test/{index:05d}" for index in range(2)),
    ]


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_a_shard(patch: pytest.MonkeyPatch) -> None:
    """The bytes are handed over, and the disk refuses them."""

    def refuse(descriptor: int) -> None:
        raise NO_SPACE

    patch.setattr(os, "fsync", refuse)


def in_a_manifest(patch: pytest.MonkeyPatch) -> None:
    def refuse(value: Any, path: Path) -> None:
        path.write_text('{"stage": "phan')
        raise NO_SPACE

    patch.setattr("pathloom.run.write_json", refuse)


@pytest.mark.parametrize("fill", [in_a_shard, in_a_manifest])
def test_a_full_disk_is_one_clear_line_and_the_next_run_finishes(workshop, monkeypatch, fill):
    with monkeypatch.context() as patch:
        fill(patch)
        message = workshop.error()
    assert "the disk is full: free some space and run the same command again" in message
    assert str(workshop.runs) in message
    assert workshop.folders() == []

    workshop.run()

    assert workshop.ran == ["untrained", "after", "report"]
    assert count_records(workshop.one("phantoms"))["samples"] == 6
    assert list(workshop.runs.rglob("*.partial")) == [workshop.runs / PARTIAL]


def test_a_full_disk_within_the_parquet_writer_is_one_clear_line(workshop, monkeypatch):
    # A device that is always full: the error comes up through Arrow's own writer.
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    whole_open = Path.open

    def to_a_full_disk(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        on_the_disk = whole_open(self, mode, *arguments, **options)
        if self.suffix == ".partial" and self.parent.name == "samples":
            on_the_disk.close()
            return whole_open(Path("/dev/full"), mode, *arguments, **options)
        return on_the_disk

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", to_a_full_disk)
        assert "the disk is full" in workshop.error()

    workshop.run()
    assert count_records(workshop.one("phantoms"))["samples"] == 6


@pytest.mark.parametrize(
    ("error", "free"),
    [
        # Both as seen on a full tmpfs.
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), 10**9),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), 0),
    ],
    ids=["safetensors", "torch.save"],
)
def test_a_full_disk_while_weights_are_written_is_one_clear_line(workshop, monkeypatch, error, free):
    def fills_the_disk(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        raise error

    usage = shutil.disk_usage(workshop.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    monkeypatch.setitem(run.RUNNERS, "init", fills_the_disk)

    assert "the disk is full" in workshop.error()


def test_an_error_of_torch_with_room_on_the_disk_is_not_blamed_on_the_disk(workshop, monkeypatch):
    def buggy(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        raise RuntimeError("shapes do not match")

    usage = shutil.disk_usage(workshop.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    monkeypatch.setitem(run.RUNNERS, "init", buggy)

    with pytest.raises(RuntimeError, match="shapes do not match"):
        workshop.run()


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (errno.EROFS, "read-only: choose another folder with --runs"),
        (errno.EACCES, "permission denied: choose a folder you may write to with --runs"),
    ],
)
def test_a_runs_folder_that_cannot_be_written_is_named_with_the_cure(workshop, monkeypatch, code, cure):
    # Root may write anywhere, so the refusal is played.
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        message = workshop.error()

    assert cure in message
    assert str(workshop.runs) in message
    assert not workshop.runs.exists()


def test_a_runs_folder_below_a_file_is_one_clear_line(workshop):
    workshop.runs.write_text("a file")

    assert str(workshop.runs) in workshop.error()


def test_a_stage_folder_without_its_manifest_is_not_taken_for_finished(workshop):
    workshop.run()
    (workshop.one("after") / MANIFEST_FILE).unlink()
    (workshop.one("after") / "made.txt").write_text("by whom?")

    message = workshop.error()

    assert workshop.one("after").name in message
    assert "remove" in message


def test_everything_is_checked_before_the_first_stage_runs(workshop):
    assert "no Sample at all" in workshop.error("phantoms.train={}", "phantoms.test={}")
    assert workshop.ran == []
    assert not workshop.runs.exists()


def test_a_bug_is_not_dressed_up_as_a_mistake_of_the_user(workshop, monkeypatch):
    def buggy(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setitem(run.RUNNERS, "init", buggy)
    with pytest.raises(ZeroDivisionError):
        workshop.run()


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_works(workshop, monkeypatch):
    entered, leave = threading.Event(), threading.Event()
    recipe = workshop.recipe()

    def slow(config: Any, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        entered.set()
        assert leave.wait(30)
        return {}

    monkeypatch.setitem(run.RUNNERS, "init", slow)
    first = threading.Thread(target=run_recipe, args=(recipe, workshop.runs, workshop.said.append))
    first.start()
    try:
        assert entered.wait(30)
        with pytest.raises(UserError, match=r"another pathloom run.*--runs"):
            run_recipe(recipe, workshop.runs, workshop.said.append)
    finally:
        leave.set()
        first.join()

    workshop.run()
    assert workshop.ran == [], "the first run finished all stages and let go of the folder"
