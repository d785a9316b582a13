import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from tests.fixtures import encoded

from pathloom.benchmarks import find_benchmark
from pathloom.cli import main
from pathloom.ingest import questions_files
from pathloom.ingest.questions import QuestionsConfig
from pathloom.ingest.questions_cytochat import _read_options
from pathloom.schema import Drop, Sample, Turn
from pathloom.stage import UserError
from pathloom.store import read_samples
from pathloom.tasks import find_task

CHOICE = ("Image", "Task", "Class number", "Prompt", "Lable")
TURNS = ("Image", "Prompt", "Lable")
NAMES = {
    "choice": "Multiple choice questions benchmark.xlsx",
    "dialogue": "Visual question answering benchmark.xlsx",
    "report": "Descriptive reporting benchmark.xlsx",
}
TWO = "[A.Round, B.Long]"


def chat(words: str) -> str:
    return f"system\nBe brief.\nuser\n{words}\nassistant\n"


def asked(options: str = TWO, topic: str = "Shape of the pebble") -> str:
    return chat(f"Answer by the image [{topic}], and select one of these [{options.strip('[]')}]. Only that.")


def pebble(image: Any, label: Any, *, number: Any = 2, prompt: Any = None, task: str = "Pebble\u2212shape"):
    return (image, task, number, asked() if prompt is None else prompt, label)


def workbook(folder: Path, kind: str, rows: Sequence[Sequence[Any]], header: Sequence[str] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    sheet = book.active
    for row in [header or (CHOICE if kind == "choice" else TURNS), *rows]:
        sheet.append(list(row))
    path = folder / NAMES[kind]
    book.save(path)
    return path


def swap(path: Path, part: str, old: bytes, new: bytes) -> None:
    """Change the bytes of one part of a workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old in parts[part]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data.replace(old, new, 1) if name == part else data)


def source(folder: Path, **fields: Any) -> QuestionsConfig:
    return QuestionsConfig.model_validate(
        {"name": "q", "kind": "ingest", "source": "questions", "path": folder, **fields}
    )


def read(config: QuestionsConfig) -> tuple[list[Sample], list[Drop]]:
    config.check()
    found = [one for unit in config.plan() for one in config.read(unit)]
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Drop)]


def reasons(drops: Sequence[Drop]) -> dict[str, str]:
    return {drop.sample_id.removeprefix("cytochat/"): drop.reason for drop in drops}


def test_a_choice_is_kept_by_its_options_text_and_not_by_its_letter(tmp_path):
    workbook(tmp_path, "choice", [pebble("p-1", "B.Long.\n")])

    (sample,), drops = read(source(tmp_path))

    assert drops == []
    assert (sample.id, sample.task, sample.split) == ("cytochat/p-1", "choice", "test")
    assert (sample.choices, sample.answer) == (("Round", "Long"), "Long")
    assert sample.question.startswith("Shape of the pebble")
    assert "Be brief" not in sample.question
    assert sample.strata == ("task=Pebble-shape", "picture=none")
    assert (sample.origin.source, sample.origin.group) == ("cytochat", "p-1")
    assert sample.origin.source_id == f"{NAMES['choice']}, row 2"
    assert "non-commercial" in sample.origin.licence
    assert find_benchmark("cytochat_choice").asks(sample)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("A.Round, smooth, B.Long", ("Round, smooth", "Long")),
        ("A) Round; B) Long", ("Round", "Long")),
        ("(A) Round, (B) Long [sic]", ("Round", "Long [sic]")),
        ("A: Round\nB: Long", ("Round", "Long")),
        ("A\u3001Round\uff0cB\u3001Long", ("Round", "Long")),
        ("A.With E. coli, B.With, E. coli", ("With E. coli", "With, E. coli")),
        ("B.Round, C.Long", ()),
    ],
)
def test_options_are_parted_at_the_next_letter_and_at_nothing_else(text, options):
    assert _read_options(text) == options


@pytest.mark.parametrize("label", ["B", "(B)", "B.", "Long", "long.", "B. Long", "B) Long."])
def test_a_label_may_be_a_letter_or_words_or_both(tmp_path, label):
    workbook(tmp_path, "choice", [pebble("p-1", label)])

    (sample,), _ = read(source(tmp_path))

    assert sample.answer == "Long"


def test_an_option_that_stands_twice_counts_once_and_the_letters_before_it_stay(tmp_path):
    prompt = asked("A.IV, B.I, C.II, D.I, E.IV")
    workbook(tmp_path, "choice", [pebble("p-1", "D.I.", number=3, prompt=prompt)])

    (sample,), _ = read(source(tmp_path))

    assert (sample.choices, sample.answer) == (("IV", "I", "II"), "I")
    assert "2 options" in sample.history[0].note
    assert find_task("choice").truth(sample) == "I"


def test_what_is_wrong_with_a_row_is_counted_and_the_others_are_read(tmp_path):
    rows: dict[str, tuple[Any, ...]] = {
        "good": pebble("good", "A.Round"),
        "no-label": pebble("no-label", None),
        "error": pebble("error", "#REF!"),
        "a-date": pebble("a-date", True),
        "other": pebble("other", "C.Flat"),
        "contradiction": pebble("contradiction", "A.Long"),
        "one-option": pebble("one-option", "A.Round", number=1, prompt=asked("A.Round")),
        "same-twice": pebble("same-twice", "A.Round", number=None, prompt=asked("A.Round, B.round.")),
        "number": pebble("number", "A.Round", number=3),
        "no-brackets": pebble("no-brackets", "A.Round", prompt=chat("Round or long?")),
        "no-topic": pebble("no-topic", "A.Round", prompt=chat(f"Choose {TWO}")),
        "wordless": pebble("wordless", "A.Round", prompt=asked("A.Round, B., C.Long"), number=3),
        "no-prompt": pebble("no-prompt", "A.Round", prompt=" "),
        "ambiguous": pebble("ambiguous", "B", prompt=asked("A.B, B.C")),
    }
    repeated = pebble("good", "B.Long")
    workbook(tmp_path, "choice", [*rows.values(), repeated, pebble(None, "A.Round")])

    samples, drops = read(source(tmp_path))

    assert [(sample.id, sample.answer) for sample in samples] == [("cytochat/good", "Round")]
    assert reasons(drops) == {
        "no-label": "no_label",
        "error": "no_label",
        "a-date": "no_label",
        "other": "label_is_no_option",
        "contradiction": "label_is_no_option",
        "one-option": "too_few_options",
        "same-twice": "too_few_options",
        "number": "other_number_of_options",
        "no-brackets": "unreadable_prompt",
        "no-topic": "unreadable_prompt",
        "wordless": "unreadable_prompt",
        "no-prompt": "no_prompt",
        "ambiguous": "label_is_no_option",
        "good": "name_seen_before",
        f"{NAMES['choice']}, row 17": "no_image_name",
    }
    assert all("row" in drop.detail for drop in drops)


def test_a_single_label_answers_the_first_turn_and_later_turns_are_dropped(tmp_path):
    prompts = repr([chat("Describe it."), chat("Is it wet?"), chat("What lies around?")])
    workbook(tmp_path, "dialogue", [("d-1", prompts, "A grey pebble.\n")])

    (sample,), drops = read(source(tmp_path))

    assert (sample.id, sample.task, sample.earlier) == ("cytochat/d-1/turn-1", "dialogue", ())
    assert (sample.question, sample.answer) == ("Describe it.", "A grey pebble.")
    assert sample.origin.group == "d-1"
    assert reasons(drops) == dict.fromkeys(("d-1/turn-2", "d-1/turn-3"), "turn_without_answer")


def test_a_list_of_labels_answers_the_turns_in_order_and_each_knows_the_ones_before(tmp_path):
    prompts = repr([chat("Describe it."), chat("Is it wet?")])
    workbook(tmp_path, "dialogue", [("d-1", prompts, "['A pebble.', 'It\\'s dry.']")])

    (first, second), drops = read(source(tmp_path))

    assert (first.earlier, drops) == ((), [])
    assert second.earlier == (Turn(question="Describe it.", answer="A pebble."),)
    assert (second.question, second.answer) == ("Is it wet?", "It's dry.")


@pytest.mark.parametrize(
    "prompt",
    [
        "['cut off",
        "Describe it.",
        "[]",
        "['a', 3]",
        "['a', ' ']",
        "__import__('os').getcwd()",
        "[" * 5000,
        "-" * 20_000 + "1",
        "['\\ud800']",
    ],
)
def test_turns_that_are_no_list_of_texts_are_dropped_and_nothing_of_them_runs(tmp_path, prompt):
    good = ("d-2", repr([chat("Describe it.")]), "A pebble.")
    workbook(tmp_path, "dialogue", [("d-1", prompt, "A pebble."), good])

    samples, drops = read(source(tmp_path))

    assert reasons(drops) == {"d-1": "unreadable_prompt"}
    assert [sample.origin.group for sample in samples] == ["d-2"]


def test_more_labels_than_turns_are_nobodys_answers(tmp_path):
    rows = [("d-1", "['Describe it.']", "['one', 'two']"), ("d-2", "['Describe it.']", "A pebble.")]
    workbook(tmp_path, "dialogue", rows)

    assert reasons(read(source(tmp_path))[1]) == {"d-1": "more_labels_than_prompts"}


def test_a_report_is_the_label_as_it_is(tmp_path):
    workbook(tmp_path, "report", [("r-1", chat("Describe it."), "A pebble, 5 mm.\nNo moss.\n")])

    (sample,), _ = read(source(tmp_path))

    assert (sample.task, sample.question) == ("report", "Describe it.")
    assert sample.answer == "A pebble, 5 mm.\nNo moss."


def test_pictures_are_found_by_name_in_folders_below_and_missing_ones_are_drops(tmp_path):
    rows = [pebble(name, "A.Round") for name in ("p 1", "p-2", "p-3", "p-4", "../x")]
    workbook(tmp_path / "q", "choice", rows)
    for place in ("a/p 1.JPG", "a/p-3.png", "b/p-3.jpg"):
        (tmp_path / "pictures" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / place).write_bytes(
            encoded(1, "JPEG" if place.lower().endswith("g") else "PNG")
        )
    (tmp_path / "pictures" / "p-4.png").write_bytes(b"no picture")
    (tmp_path / "x.png").write_bytes(encoded(2))

    (sample,), drops = read(source(tmp_path / "q", images=tmp_path / "pictures"))

    assert Path(sample.images[0].path).name == "p 1.JPG"
    assert sample.strata == ("task=Pebble-shape",)
    assert sample.history[0].note == ""
    assert reasons(drops) == {
        "p-2": "missing_image",
        "p-3": "several_images",
        "p-4": "not_an_image",
        "../x": "missing_image",
    }


def test_a_sheet_that_declares_a_million_rows_is_read_to_its_last_one(tmp_path):
    path = workbook(tmp_path, "report", [("r-1", "Describe it.", "A pebble.")])
    last = b'<row r="1048576">' + b"".join(
        b'<c r="%c1048576" t="inlineStr"><is><t>%s</t></is></c>' % (column, text)
        for column, text in zip(b"ABC", (b"r-2", b"Describe it.", b"Sand."), strict=True)
    )
    swap(path, "xl/worksheets/sheet1.xml", b"</sheetData>", last + b"</row></sheetData>")
    swap(path, "xl/worksheets/sheet1.xml", b'<dimension ref="A1:C2"', b'<dimension ref="A1:XFD1048576"')

    samples, _ = read(source(tmp_path))

    assert [sample.answer for sample in samples] == ["A pebble.", "Sand."]
    assert samples[1].origin.source_id.endswith("row 1048576")


def test_a_formula_is_not_computed(tmp_path):
    rows = [("r-1", "Describe it.", '="A " & "pebble"'), ("r-2", "Describe it.", "Sand.")]
    workbook(tmp_path, "report", rows)

    samples, drops = read(source(tmp_path))

    assert reasons(drops) == {"r-1": "no_label"}
    assert [sample.answer for sample in samples] == ["Sand."]


@pytest.mark.parametrize("part", ["xl/worksheets/sheet1.xml", "xl/workbook.xml"])
def test_xml_that_declares_entities_is_refused(tmp_path, part):
    path = workbook(tmp_path, "report", [("r-1", "Describe it.", "A pebble.")])
    start = b"<worksheet" if "sheet1" in part else b"<workbook"
    swap(path, part, start, b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;">]>' + start)

    with pytest.raises(UserError, match=r"Descriptive.*cannot be read as a workbook.*EntitiesForbidden"):
        source(tmp_path).check()


def test_nothing_is_read_where_entities_would_be_resolved(tmp_path, monkeypatch):
    workbook(tmp_path, "report", [("r-1", "Describe it.", "A pebble.")])
    monkeypatch.setattr(openpyxl, "DEFUSEDXML", False)

    with pytest.raises(UserError, match="defusedxml"):
        source(tmp_path).check()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = workbook(tmp_path, "report", [("r-1", "Describe it.", "A pebble.")])
    swap(path, "xl/worksheets/sheet1.xml", b"</", b" " * questions_files.MAX_UNPACKED_BYTES + b"</")
    assert path.stat().st_size < 100_000

    with pytest.raises(UserError, match="bytes unpacked"):
        source(tmp_path).check()


def test_styles_may_weigh_less_than_cells(tmp_path):
    path = workbook(tmp_path, "report", [("r-1", "Describe it.", "A pebble.")])
    swap(path, "xl/styles.xml", b"</", b" " * questions_files.MAX_OTHER_BYTES + b"</")

    with pytest.raises(UserError, match="beside cells and texts"):
        source(tmp_path).check()


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    path = tmp_path / NAMES["report"]
    path.touch()
    os.truncate(path, questions_files.MAX_UNPACKED_BYTES + 1)

    with pytest.raises(UserError, match="at most"):
        source(tmp_path).check()


def share_text(path: Path, text: str, num_rows: int) -> None:
    """Add rows whose label is one text that stands in the workbook once, as spreadsheet programs write them."""
    row = b'<row><c t="inlineStr"><is><t>r%d</t></is></c><c t="s"><v>0</v></c><c t="s"><v>0</v></c></row>'
    rows = b"".join(row % number for number in range(num_rows))
    swap(path, "xl/worksheets/sheet1.xml", b"</sheetData>", rows + b"</sheetData>")
    kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    override = b'<Override PartName="/xl/sharedStrings.xml" ContentType="%s"/>' % kind
    swap(path, "[Content_Types].xml", b"</Types>", override + b"</Types>")
    namespace = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{namespace}"><si><t>{text}</t></si></sst>')


def test_a_text_shared_by_many_cells_counts_each_time(tmp_path):
    path = workbook(tmp_path, "report", [])
    share_text(path, "x" * 30_000, num_rows=100)
    assert len(read(source(tmp_path))[0]) == 100
    share_text(workbook(tmp_path, "report", []), "x" * 30_000, num_rows=150)

    with pytest.raises(UserError, match=f"more than {questions_files.MAX_UNPACKED_BYTES} characters"):
        source(tmp_path).check()


def test_a_text_longer_than_a_cell_can_hold_is_dropped(tmp_path):
    path = workbook(tmp_path, "report", [("r-1", "Describe it.", "A pebble.")])
    share_text(path, "x" * (questions_files.MAX_CELL_LENGTH + 1), num_rows=1)

    assert reasons(read(source(tmp_path))[1]) == {"r0": "cell_too_long"}


def test_files_that_are_no_workbook_are_named(tmp_path):
    path = tmp_path / NAMES["report"]
    path.write_bytes(b"Image,Prompt,Lable\n")

    with pytest.raises(UserError, match=r"Descriptive.*not a workbook"):
        source(tmp_path).check()


@pytest.mark.parametrize(
    ("header", "message"),
    [(("Image", "Question", "Lable"), "'prompt' is missing"), (("Image", "Image", "Prompt"), "stands twice")],
)
def test_a_heading_that_is_missing_or_twofold_is_told_with_those_there(tmp_path, header, message):
    workbook(tmp_path, "report", [("r-1", "Describe it.", "A pebble.")], header)

    with pytest.raises(UserError, match=message):
        source(tmp_path).check()


def test_folders_without_a_known_workbook_or_with_an_unknown_one_are_refused(tmp_path):
    with pytest.raises(UserError, match="no workbook whose name begins"):
        source(tmp_path).check()
    with pytest.raises(UserError, match=r"q\.path: .*nowhere is not a folder"):
        source(tmp_path / "nowhere").check()
    workbook(tmp_path, "report", [("r-1", "Describe it.", None)])
    with pytest.raises(UserError, match=r"holds no question that can be read: .*no text under"):
        source(tmp_path).check()
    (tmp_path / "~$open.xlsx").touch()  # Excel leaves it while a file is open
    (tmp_path / "Answers.xlsx").touch()
    with pytest.raises(UserError, match=r"Answers\.xlsx: its name is none"):
        source(tmp_path).check()


def test_a_changed_answer_or_picture_makes_another_stage(tmp_path):
    folder, pictures = tmp_path / "q", tmp_path / "pictures"
    pictures.mkdir()
    marks = []
    for label, seed in (("A.Round", 1), ("B.Long", 1), ("B.Long", 2)):
        workbook(folder, "choice", [pebble("p-1", label)])
        (pictures / "p-1.png").write_bytes(encoded(seed, width_px=20 + seed))
        marks.append(source(folder, images=pictures).fingerprint())

    assert len(set(marks)) == 3
    assert source(tmp_path / "nowhere").fingerprint() == ""


def test_readers_in_other_processes_get_no_plan(tmp_path):
    workbook(tmp_path, "choice", [pebble(f"p-{number}", "A.Round") for number in range(300)])
    config = source(tmp_path)
    config.check()

    assert len(pickle.dumps(config)) < 2000


def test_the_command_reads_a_folder_and_tells_what_it_dropped(tmp_path, capsys):
    workbook(tmp_path / "q", "choice", [pebble("p-1", "A.Round"), pebble("p-2", "C.Flat")])
    out = tmp_path / "out"

    assert (
        main(["ingest", "questions", str(tmp_path / "q"), "--out", str(out), "--set", "licence=CC0-1.0"]) == 0
    )

    assert "1 kept, 1 dropped (label_is_no_option 1)" in capsys.readouterr().out
    (sample,) = read_samples(out)
    assert sample.origin.licence == "CC0-1.0"


def test_the_published_workbooks_are_read_in_full(data_root):
    folder = data_root / "questions" / "cytochat"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")

    samples, drops = read(source(folder))

    assert Counter(sample.task for sample in samples) == {"choice": 296, "dialogue": 100, "report": 300}
    assert Counter(drop.reason for drop in drops) == {"turn_without_answer": 200}
    row = find_benchmark("cytochat_choice")
    assert sum(map(row.asks, samples)) == row.size
    choices = [sample for sample in samples if sample.task == "choice"]
    assert all(find_task("choice").truth(sample) == sample.answer for sample in choices)
    strata = Counter(stratum for sample in choices for stratum in sample.strata)
    assert len(strata) == 21
    assert strata["task=Salivary-Milan"] == 15
    milan = {sample.choices for sample in choices if "task=Salivary-Milan" in sample.strata}
    assert [len(options) for options in milan] == [7]
    assert len({sample.origin.group for sample in samples}) == 696
