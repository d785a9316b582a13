"""`pathloom ingest slides`."""

import pytest
from tests.ingest.test_slides import make_slide

from pathloom.cli import main
from pathloom.slides.record import read_records

pytest.importorskip("openslide")


def test_a_folder_of_slides_is_read_and_a_table_printed(tmp_path, capsys):
    make_slide(tmp_path / "in" / "a.tiff")
    make_slide(tmp_path / "in" / "b.tiff", empty=True)

    status = main(
        [
            "ingest",
            "slides",
            str(tmp_path / "in"),
            "--mpp",
            "0.5",
            "--size_px",
            "128",
            "--out",
            str(tmp_path / "out"),
        ]
    )

    said = capsys.readouterr().out
    assert status == 0
    ((record, _),) = read_records(tmp_path / "out")
    assert (record.mpp, record.size_px) == (0.5, 128)
    rows = [line.split() for line in said.splitlines()]
    assert ["slide", "vendor", "size_l0", "mpp_l0", "tissue", "tiles", "dropped", "seconds", "status"] in rows
    assert [row[-1] for row in rows if row[0] in ("a.tiff", "b.tiff")] == ["read", "no_tissue"]
    assert "b.tiff: " in said  # why it was refused
    assert "tiles of 128 px at 0.5 um per pixel" in said
    assert "gallery.html" in said


def test_no_slide_read_is_a_failure_that_says_why(tmp_path, capsys):
    (tmp_path / "notes.tiff").write_text("no slide")

    status = main(["ingest", "slides", str(tmp_path / "notes.tiff"), "--out", str(tmp_path / "out")])

    assert status == 1
    assert "notes.tiff: " in capsys.readouterr().out


def test_tile_options_with_another_source_are_refused(tmp_path, capsys):
    assert main(["ingest", "questions", str(tmp_path), "--mpp", "0.5", "--out", str(tmp_path / "out")]) == 1
    assert "--mpp is for slides" in capsys.readouterr().err
