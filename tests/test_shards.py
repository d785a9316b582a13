import json
import os
import pickle
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import noting, write_tiles

from pathloom import shards
from pathloom.ingest.pairs import PairsConfig
from pathloom.ingest.phantom import PhantomConfig
from pathloom.ingest.tiles import TilesConfig
from pathloom.shards import run_ingest
from pathloom.store import read_samples


def phantoms(number: int) -> PhantomConfig:
    return PhantomConfig(
        name="phantoms",
        kind="ingest",
        source="phantom",
        size_px=64,
        train={"presence": number},
        test={"presence": 1},
    )


def captions(folder: Path, number: int) -> PairsConfig:
    table = folder / f"{number}.jsonl"
    rows = [{"id": str(n), "caption": f"Colon, H&E: fused glands {n}."} for n in range(number)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PairsConfig(name="pairs", kind="ingest", source="pairs", table=table, images="ignored")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def two_units_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "UNITS_PER_SHARD", 2)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    monkeypatch.setattr(
        PhantomConfig, "read", noting(lambda config, unit: asked.append(unit), PhantomConfig.read)
    )
    return asked


@pytest.mark.usefixtures("two_units_a_shard")
def test_processes_give_the_same_bytes_as_one(tmp_path, monkeypatch):
    counts = []
    for cores in (1, 2):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        counts.append(run_ingest(phantoms(4), tmp_path / str(cores)))

    assert counts[0] == counts[1]
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert len(list((tmp_path / "1" / "samples").iterdir())) == 3


@pytest.mark.usefixtures("two_units_a_shard")
def test_a_worker_gets_the_configuration_once_and_then_only_its_units(tmp_path, monkeypatch):
    at_start: list[int] = []
    of_shards: list[int] = []

    class Measured(ProcessPoolExecutor):
        def __init__(self, *given: Any, initargs: tuple[Any, ...] = (), **options: Any) -> None:
            at_start.append(len(pickle.dumps(initargs)))
            super().__init__(*given, initargs=initargs, **options)

        def submit(self, *given: Any, **options: Any) -> Future[Any]:
            of_shards.append(len(pickle.dumps((given, options))))
            return super().submit(*given, **options)

    monkeypatch.setattr(shards, "ProcessPoolExecutor", Measured)
    largest = []
    for number in (4, 200):
        source = captions(tmp_path, number)
        source.check()
        for cores in (1, 2):
            monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
            run_ingest(source, tmp_path / f"{number} on {cores}")
        assert len(of_shards) == number // 2
        largest.append(max(of_shards))
        of_shards.clear()
        assert files_of(tmp_path / f"{number} on 1") == files_of(tmp_path / f"{number} on 2")
        assert [s.id for s in read_samples(tmp_path / f"{number} on 2")] == [
            f"pairs/{n}" for n in range(number)
        ]

    assert largest[1] < largest[0] + 20, "offsets of more digits, but no list of all rows"
    assert at_start[1] < at_start[0] + 20


@pytest.mark.usefixtures("two_units_a_shard")
def test_a_shard_on_the_disk_is_never_made_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    whole = run_ingest(phantoms(5), tmp_path)
    before = files_of(tmp_path)
    (tmp_path / "samples" / "00001.parquet").unlink()
    asked = count_reads(monkeypatch)

    assert run_ingest(phantoms(5), tmp_path) == whole
    assert asked == [("presence", "train", 2), ("presence", "train", 3)]
    assert files_of(tmp_path) == before


def test_a_finished_ingest_reads_nothing(tmp_path, monkeypatch):
    run_ingest(phantoms(2), tmp_path)
    asked = count_reads(monkeypatch)

    run_ingest(phantoms(2), tmp_path)

    assert asked == []


def test_dropped_records_are_kept_beside_the_samples_and_counted(tmp_path):
    root = write_tiles(tmp_path / "tiles", {"normal": 4, "tumour": 4})
    (root / "normal" / "00.png").write_text("no picture")
    config = TilesConfig(name="tiles", kind="ingest", source="tiles", root=root)

    counts = run_ingest(config, tmp_path / "out")

    assert counts["samples"] == 7
    assert counts["drops"] == {"not_an_image": 1}
    assert len(list(read_samples(tmp_path / "out"))) == 7
    assert "normal/00.png" in (tmp_path / "out" / "drops" / "00000.jsonl").read_text()
