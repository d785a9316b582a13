"""The command `phantom`: a book or a slide, and what is refused before anything is drawn."""

from pathlib import Path

import pytest

from pathloom.cli import main
from pathloom.slides.reader import open_slide


def test_a_slide_is_written_with_its_truth_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "slide.tiff"
    assert main(["phantom", "slide", "--out", str(out), "--pixels", "1.1e6", "--extent", "small"]) == 0
    with open_slide(out) as slide:
        assert slide.size_l0 == (1056, 1056)
        assert slide.level_downsamples == pytest.approx((1, 4, 16))
    assert out.with_suffix(".geojson").exists()
    assert "1056 x 1056 px at 1 um, adenocarcinoma" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--label", "melanoma"], "--label melanoma: there is normal, adenocarcinoma"),
        (["--extent", "huge"], "--extent huge: there is small, larger"),
        (["--pixels", "100"], "--pixels 100"),
        (["--pixels", "1e12"], "--pixels 1e+12"),
        (["--seed", "-1"], "--seed -1: give 0 or more"),
        (["--out", "slide.svs"], "a slide is written as .tiff"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_cure(
    given: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", "slide", "--out", "slide.tiff", *given]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "there"),
    [
        ("book.pdf", "book.pdf"),
        ("book.pdf", "book.truth.jsonl"),
        ("slide.tiff", "slide.tiff"),
        ("slide.tiff", "slide.geojson"),
    ],
)
def test_a_file_that_is_there_is_not_drawn_over(
    out: str, there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / there
    path.write_bytes(b"somebody's own")
    assert main(["phantom", path.name.split(".")[0], "--out", str(tmp_path / out)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert path.read_bytes() == b"somebody's own"
    assert list(tmp_path.iterdir()) == [path]
