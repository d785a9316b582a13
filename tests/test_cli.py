import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixtures import encoded, make_sample, noting, write_tiles
from tests.test_images import png_header_only

from pathloom import __version__, recipe
from pathloom.attributes import LANGUAGES, shipped_schemas
from pathloom.cli import guard_threads, main
from pathloom.figures import Book
from pathloom.ingest.phantom import PhantomConfig
from pathloom.schema import Drop, Region
from pathloom.stage import MANIFEST_FILE, write_json, write_jsonl
from pathloom.store import write_samples

ROOT = Path(__file__).resolve().parent.parent

PHANTOMS = """
name: small
description: A few phantoms.
stages:
  - {name: phantoms, kind: ingest, source: phantom, size_px: 64, train: {presence: 2}, test: {presence: 2}}
  - {name: untrained, kind: init, samples: [phantoms]}
"""

TILES = """
name: tiles
stages:
  - {name: tiles, kind: ingest, source: tiles, root: %s}
"""

EVALUATED = """
  - {name: after, kind: evaluate, model: {folder: %s}, samples: [tiles], benchmarks: [tiles_label],
     max_new_tokens: 2, num_resamples: 100}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, as a user would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "recipe.yaml") -> str:
    Path(name).write_text(text)
    return name


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that must fail; progress bars, which wipe themselves, are no lines."""
    capsys.readouterr()
    assert main(arguments) == 1
    shown = [line.split("\r")[-1].strip() for line in capsys.readouterr().err.split("\n")]
    lines = [line for line in shown if line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("pathloom: ")
    return lines[0]


def test_help_loads_no_heavy_library():
    script = Path(sys.executable).with_name("pathloom")
    if not script.exists():
        pytest.skip("pathloom is not installed as a command beside this Python")

    result = subprocess.run(
        [str(script), "--help"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0
    assert "recipes/quickstart.yaml" in result.stdout
    imported = {
        line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line
    }
    assert "pathloom" in imported
    heavy = {
        "torch",
        "transformers",
        "trl",
        "datasets",
        "numpy",
        "pyarrow",
        "PIL",
        "pydantic",
        "yaml",
        "sklearn",
    }
    assert imported & heavy == set()


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])

    assert stop.value.code == 0
    assert capsys.readouterr().out == f"pathloom {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["run"], ["run", "a.yaml", "--sett", "b"], ["list", "birds"]]
)
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)

    assert stop.value.code == 2
    assert "usage: pathloom" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "key", "cure"),
    [
        ("samples: [phantoms]", "sample: [phantoms]", "stage untrained.sample", "did you mean 'samples'"),
        ("samples: [phantoms]", "samples: [later]", "'later'", "does not exist"),
        (
            "{name: phantoms, kind: ingest, source: phantom,",
            "{name: phantoms, kind: ingest,",
            "source",
            "known: phantom",
        ),
        ("kind: init", "kind: initt", "kind", "did you mean 'init'"),
        ("size_px: 64", "size_px: 8", "phantoms.size_px", "greater than or equal to 64"),
        ("train: {presence: 2}", "train: {presense: 2}", "phantoms.train", "known: diagnosis"),
        ("name: small", "\tname: small", "recipe.yaml", "not readable as YAML"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_wrong_recipe_is_one_line_with_key_and_cure(capsys, old, new, key, cure):
    path = write(PHANTOMS.replace(old, new))

    for command in (["run", path], ["show", path]):
        line = complaint(capsys, *command)
        assert key in line
        assert cure in line
    assert not Path("runs").exists()


@pytest.mark.usefixtures("home")
def test_a_stage_that_names_a_later_one_is_one_line(capsys):
    lines = PHANTOMS.strip().split("\n")
    path = write("\n".join([*lines[:3], lines[4], lines[3]]))

    assert "stage untrained names the stage 'phantoms', which comes later; move it up" in complaint(
        capsys, "run", path
    )


@pytest.mark.usefixtures("home")
def test_a_wrong_set_is_one_line(capsys):
    path = write(PHANTOMS)

    assert "no stage 'phantom'" in complaint(capsys, "run", path, "--set", "phantom.size_px=80")
    assert "phantoms.size_pixels" in complaint(capsys, "run", path, "--set", "phantoms.size_pixels=80")


@pytest.mark.usefixtures("home")
def test_a_missing_recipe_is_one_line(capsys):
    assert "gone.yaml: No such file" in complaint(capsys, "run", "gone.yaml")


@pytest.mark.usefixtures("home")
def test_an_empty_class_folder_is_one_line(capsys):
    write_tiles(Path("tiles"), {"normal": 3, "tumour": 3})
    Path("tiles/scar").mkdir()

    line = complaint(capsys, "run", write(TILES % "tiles"))

    assert "tiles/scar" in line
    assert "fill it or remove it" in line


@pytest.mark.usefixtures("home")
def test_a_class_with_one_group_is_one_line(capsys):
    write_tiles(Path("tiles"), {"normal": 3, "rare": 1})

    line = complaint(capsys, "run", write(TILES % "tiles"))

    assert "class 'rare' has 1 group" in line
    assert "add images of another patient" in line


@pytest.mark.usefixtures("home")
def test_a_missing_tile_folder_is_one_line(capsys):
    assert "tiles.root: nowhere is not a folder" in complaint(capsys, "run", write(TILES % "nowhere"))


BAD_PICTURES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda whole: whole[:-400],
    "too_many_pixels": lambda whole: png_header_only(60_000, 60_000),
    "not_an_image": lambda whole: b"text, named like a picture",
}


@pytest.mark.parametrize("reason", BAD_PICTURES)
@pytest.mark.usefixtures("home")
def test_a_bad_picture_at_ingest_is_dropped_counted_and_kept_with_its_reason(reason):
    write_tiles(Path("tiles"), {"normal": 4, "tumour": 4})
    Path("tiles/normal/02.png").write_bytes(BAD_PICTURES[reason](encoded(2)))

    assert main(["run", write(TILES % "tiles")]) == 0

    (folder,) = Path("runs").glob("tiles-*")
    assert json.loads((folder / "manifest.json").read_text())["counts"]["drops"] == {reason: 1}
    (drop,) = (folder / "drops" / "00000.jsonl").read_text().splitlines()
    assert json.loads(drop)["sample_id"] == "tiles/normal/02.png"
    assert "tiles/normal/02.png" in json.loads(drop)["detail"]


def between_ingest_and_evaluation(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    from pathloom.models.load import load_model

    monkeypatch.setattr(
        "pathloom.evaluate.generative.load_model", noting(lambda folder: happens(), load_model)
    )


@pytest.mark.parametrize("reason", BAD_PICTURES)
@pytest.mark.usefixtures("home")
def test_a_picture_gone_bad_after_ingest_is_one_line_that_names_it(capsys, model_folder, monkeypatch, reason):
    def spoil() -> None:
        for path in Path("tiles").rglob("*.png"):
            path.write_bytes(BAD_PICTURES[reason](path.read_bytes()))

    write_tiles(Path("tiles"), {"normal": 2, "tumour": 2})
    between_ingest_and_evaluation(monkeypatch, spoil)

    line = complaint(capsys, "run", write(TILES % "tiles" + EVALUATED % model_folder))

    assert re.search(r"tiles/(normal|tumour)/0\d\.png: ", line)


@pytest.mark.usefixtures("home")
def test_a_picture_that_vanished_after_ingest_is_one_line_with_the_cure(capsys, model_folder, monkeypatch):
    write_tiles(Path("tiles"), {"normal": 2, "tumour": 2})
    between_ingest_and_evaluation(monkeypatch, lambda: Path("tiles").rename("elsewhere"))

    line = complaint(capsys, "run", write(TILES % "tiles" + EVALUATED % model_folder))

    assert "No such file or directory; was the source moved?" in line


@pytest.mark.usefixtures("home")
def test_pickled_weights_are_one_line_with_the_cure(capsys):
    write_tiles(Path("tiles"), {"normal": 2, "tumour": 2})
    Path("model").mkdir()
    Path("model/pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")

    line = complaint(capsys, "run", write(TILES % "tiles" + EVALUATED % "model"))

    assert "model/pytorch_model.bin is a pickle and is not loaded; save the weights as safetensors" in line


@pytest.mark.usefixtures("home")
def test_a_folder_that_is_no_model_is_one_line(capsys):
    write_tiles(Path("tiles"), {"normal": 2, "tumour": 2})
    Path("model").mkdir()

    assert "model/pathloom_card.json is missing" in complaint(
        capsys, "run", write(TILES % "tiles" + EVALUATED % "model")
    )


@pytest.mark.usefixtures("home")
def test_show_tells_what_would_run_and_runs_nothing(capsys):
    path = write(PHANTOMS)

    assert main(["show", path, "--set", "phantoms.size_px=80"]) == 0

    shown = capsys.readouterr().out
    assert re.search(r"phantoms \(ingest\): to do, runs/phantoms-[0-9a-f]{12}", shown)
    assert "untrained (init) <- phantoms: to do" in shown
    assert not Path("runs").exists()


@pytest.mark.usefixtures("home")
def test_show_and_explain_find_a_stage_and_a_sample(capsys):
    text = PHANTOMS.replace("  - {name: untrained, kind: init, samples: [phantoms]}\n", "")
    assert main(["run", write(text)]) == 0
    (folder,) = Path("runs").glob("phantoms-*")
    sample_id = "phantom/presence/test/00001"

    capsys.readouterr()
    assert main(["show", folder.name]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["samples"] == 4
    assert main(["show", sample_id]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "yes"
    assert main(["explain", sample_id]) == 0
    chain = capsys.readouterr().out
    for part in (
        sample_id,
        "licence Apache-2.0",
        f"ingest.phantom v{PhantomConfig.version}: seed 0",
        f"held by {folder.name}",
        "answer: yes",
    ):
        assert part in chain
    assert main(["list", "runs"]) == 0
    assert folder.name in capsys.readouterr().out
    assert main(["show", "recipe.yaml"]) == 0
    assert "phantoms (ingest): done" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "explain"])
@pytest.mark.usefixtures("home")
def test_an_unknown_sample_is_one_line_with_the_cure(capsys, command):
    line = complaint(capsys, command, "phantom/nothing")

    assert "no sample 'phantom/nothing' under runs; `pathloom list runs`" in line


def test_list_names_every_entry(capsys, monkeypatch):
    from pathloom.benchmarks import BENCHMARKS
    from pathloom.ingest import SOURCES
    from pathloom.models.presets import PRESETS
    from pathloom.tasks import TASKS

    monkeypatch.chdir(ROOT)
    assert main(["list", "--runs", "nowhere"]) == 0

    shown = capsys.readouterr().out
    names = [
        *(benchmark.name for benchmark in BENCHMARKS),
        *(source.name for source in SOURCES),
        *(preset.name for preset in PRESETS),
        *(task.name for task in TASKS),
        *recipe.KINDS,
    ]
    for name in names:
        assert f"\n  {name}" in shown
    for path in Path("recipes").glob("*.yaml"):
        assert f"\n  {path}" in shown


@pytest.mark.usefixtures("home")
def test_score_prints_json_last_and_complains_in_one_line(capsys):
    Path("answers.jsonl").write_text('{"completion": "<answer>yes</answer>", "answer": "yes"}\n')

    assert main(["score", "--task", "yes_no", "answers.jsonl"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1]), dict)
    assert "gone.jsonl" in complaint(capsys, "score", "--task", "yes_no", "gone.jsonl")
    assert "no task 'chess'" in complaint(capsys, "score", "--task", "chess", "answers.jsonl")
    Path("broken.jsonl").write_text("{\n")
    assert "broken.jsonl" in complaint(capsys, "score", "--task", "yes_no", "broken.jsonl")


@pytest.mark.usefixtures("home")
def test_control_c_is_one_line_that_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "load_recipe", interrupted)

    assert main(["run", write(PHANTOMS)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_doctor_finds_this_installation_healthy(capsys):
    assert main(["doctor"]) == 0

    shown = capsys.readouterr().out
    assert "FAIL" not in shown
    assert "ok   torchvision hook: registered" in shown


def test_doctor_says_what_to_mend(capsys, monkeypatch):
    from pathloom import doctor

    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 2**80)

    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "FAIL disk" in shown
    assert "cure: free some space" in shown


def test_idle_threads_sleep_unless_the_user_wants_them_to_spin(monkeypatch):
    monkeypatch.setattr(os, "environ", {"GOMP_SPINCOUNT": "7"})

    guard_threads()

    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_a_reader_that_stops_early_is_no_error():
    shown = subprocess.run(
        f"{sys.executable} -m pathloom.cli show prompts | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "## histopathology / easy / choice\n"
    assert shown.stderr == ""


def test_the_prompts_are_shown_with_their_sources(capsys):
    assert main(["show", "prompts"]) == 0
    shown = capsys.readouterr().out
    of_annotators = len(LANGUAGES) * len(shipped_schemas())
    assert shown.count("## ") == 75 + 1 + of_annotators + 1
    assert "tasks.choice: Patho-R1 2025" in shown
    assert "## annotate / cervical_cell / zh" in shown


CURATED = """
name: curated
stages:
  - {name: pairs, kind: ingest, source: pairs, table: TABLE, images: ignored}
  - name: labelled
    kind: curate
    samples: [pairs]
    steps: [{step: subfield, by: words, keep: [histopathology]}]
"""


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    """A folder in which two captions were curated: one is kept, one dropped by each stage."""
    captions = {"kept": "Colon, H&E: fused glands.", "smear": "Pap smear with many cells.", "short": "Colon."}
    rows = [json.dumps({"id": name, "caption": text}) for name, text in captions.items()]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    (tmp_path / "curated.yaml").write_text(CURATED.replace("TABLE", str(tmp_path / "pairs.jsonl")))
    return tmp_path


def curate(folder: Path) -> int:
    return main(["run", str(folder / "curated.yaml"), "--runs", str(folder / "runs")])


def test_a_run_says_what_each_stage_kept_and_dropped(curated, capsys):
    assert curate(curated) == 0
    said = capsys.readouterr().out
    assert "; 2 kept, 1 dropped (caption_too_short 1)" in said
    assert "; 1 kept, 1 dropped (subfield 1)" in said


def test_explain_names_the_stage_that_dropped_a_sample(curated, capsys):
    curate(curated)
    capsys.readouterr()
    assert main(["explain", "pairs/smear", "--runs", str(curated / "runs")]) == 0
    said = capsys.readouterr().out
    assert "held by pairs-" in said
    assert "dropped by labelled-" in said
    assert "curate.subfield: subfield (cytology" in said
    assert main(["explain", "pairs/short", "--runs", str(curated / "runs")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("pairs/short\n  dropped by pairs-")
    assert "caption_too_short (Colon.)" in said


def test_explain_names_the_encoder_of_each_answer_and_what_an_evaluation_left_out(tmp_path, capsys):
    sample = make_sample("a")
    folder = tmp_path / "zero_shot-0123"
    write_samples([sample], tmp_path / "tiles-0123")
    folder.mkdir()
    for one in (folder, tmp_path / "tiles-0123"):
        write_json({}, one / MANIFEST_FILE)
    score = {"sample_id": "a", "set": "lung", "control": "none", "answer": "low", "correct": 0.0}
    write_jsonl([{**score, "encoder": name} for name in ("CONCH", "PLIP")], folder / "scores.jsonl")
    drop = Drop(sample_id="a", step="evaluate.zero_shot", reason="no_label", detail="")
    write_jsonl([drop.model_dump()], folder / "drops.jsonl")

    assert main(["explain", "a", "--runs", str(tmp_path)]) == 0

    said = capsys.readouterr().out
    assert "zero_shot-0123 (CONCH, lung): 'low', correct 0" in said
    assert "zero_shot-0123 (PLIP, lung): 'low', correct 0" in said
    assert "dropped by zero_shot-0123, evaluate.zero_shot: no_label" in said


def test_a_stage_is_shown_by_its_name_and_a_sample_as_the_newest_stage_left_it(curated, capsys):
    curate(curated)
    capsys.readouterr()
    assert main(["show", "labelled", "--runs", str(curated / "runs")]) == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "labelled"
    assert main(["show", "pairs/kept", "--runs", str(curated / "runs")]) == 0
    assert json.loads(capsys.readouterr().out)["subfield"] == "histopathology"


def test_every_source_is_listed_with_its_keys(capsys):
    assert main(["list", "sources"]) == 0
    said = capsys.readouterr().out
    assert "  cells: cells of fields or slides, by given boxes or a simple detector\n" in said
    assert "      images (needed): folder of fields, of slides or of pictures of one cell each\n" in said
    assert "      min_box_px (default 8): least shorter side of a box in the field\n" in said


def test_explain_tells_class_and_box_of_a_cell_that_nobody_has_described(tmp_path, capsys):
    region = Region(box_px=(1, 2, 3, 4), label="cell")
    sample = make_sample("a", task="caption", answer="", finding="LSIL", regions=(region,))
    folder = tmp_path / "cells-0"
    write_samples([sample], folder)
    (folder / MANIFEST_FILE).write_text("{}")
    assert main(["explain", "a", "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "  finding: LSIL\n" in said
    assert "  boxes: [[1.0, 2.0, 3.0, 4.0]]\n" in said
    assert "answer" not in said


def test_every_step_is_listed_with_its_keys(capsys):
    assert main(["list", "steps"]) == 0
    said = capsys.readouterr().out
    for step in (
        "subfield",
        "organ",
        "difficulty",
        "reasoning_filter",
        "near_duplicates",
        "reviewed",
        "draw",
        "apart",
        "image_duplicates",
        "decontaminate",
    ):
        assert f"  {step}: `{{step: {step}" in said
    assert "count (needed): Samples to draw" in said


def test_a_phantom_book_is_typeset_with_its_truth(tmp_path, capsys):
    book = tmp_path / "phantom.pdf"
    assert main(["phantom", "book", "--out", str(book), "--pages", "2"]) == 0
    truth = Book.model_validate_json((tmp_path / "phantom.truth.jsonl").read_text())
    assert (truth.name, book.is_file()) == ("phantom", True)
    assert f"{len(truth.figures)} figures" in capsys.readouterr().out
    assert main(["phantom", "book", "--out", str(tmp_path / "other.pdf"), "--style", "scroll"]) == 1
    assert "known styles are textbook" in capsys.readouterr().err
