import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathloom.cli import main
from pathloom.evaluate.class_prompts import PLACEHOLDER, ClassPrompts, read_prompts, shipped_prompts
from pathloom.ingest.drawn import Deal
from pathloom.ingest.phantom import QUESTIONS
from pathloom.phantom.cytology import VALUES
from pathloom.phantom.tissue import CELLULARITIES
from pathloom.stage import UserError

NAMES = {"lung_aca": ["lung adenocarcinoma", "malignant glands"], "lung_n": ["normal lung"]}
TEMPLATES = ["CLASSNAME.", "an image of CLASSNAME."]
PUBLISHED_CLASSES = {
    "lc_lung": {"lung_n", "lung_aca", "lung_scc"},
    "lc_colon": {"colon_n", "colon_aca"},
    "wsss4luad": {"tumor", "normal"},
    "bach": {"Normal", "Benign", "InSitu", "Invasive"},
    "crc100k": {"ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"},
}
"""The folders of the published sets, as their makers name them."""
ORDERED_CLASSES = {
    "sicapv2": ("NC", "G3", "G4", "G5"),
    "bmt": ("NILM", "LSIL", "HSIL"),
    "phantom_cellularity": CELLULARITIES,
    "phantom_nc_ratio": VALUES["nc_ratio"],
    "phantom_nuclear_size": VALUES["nuclear_size"],
}


def written(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "own.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def one_set(names: Any = NAMES, templates: Any = TEMPLATES) -> dict[str, Any]:
    return {"0": {"classnames": names, "templates": templates}}


def test_every_name_stands_in_every_template(tmp_path):
    prompts = read_prompts(written(tmp_path, one_set()))

    assert prompts.classes == ("lung_aca", "lung_n")
    assert prompts.texts("lung_aca") == [
        "lung adenocarcinoma.",
        "an image of lung adenocarcinoma.",
        "malignant glands.",
        "an image of malignant glands.",
    ]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("lung_aca", "lung_aca"),
        ("Malignant  glands.", "lung_aca"),
        ("normal lung", "lung_n"),
        ("lung", None),
        ("", None),
    ],
)
def test_an_answer_is_the_class_whose_folder_or_name_it_is(tmp_path, answer, label):
    assert read_prompts(written(tmp_path, one_set())).class_of(answer) == label


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{not json", "not readable as JSON"),
        ('{"0": {"classnames": {"a": ["b"], "a": ["c"]}}}', "'a' stands 2 times"),
        ([], 'under the key "0"'),
        ({}, 'under the key "0"'),
        ({**one_set(), "1": {}}, 'under the key "0"'),
        ({"0": {"classnames": NAMES}}, '"0" holds classnames; it must be'),
        (one_set(names=["a", "b"]), "classnames: a mapping"),
        (one_set(names={"a": ["b"]}), "1 class; at least two"),
        (one_set(names={**NAMES, "lung_scc": []}), "classnames.lung_scc: a list of names"),
        (one_set(names={**NAMES, "lung_scc": "cancer"}), "classnames.lung_scc: a list of names"),
        (one_set(names={**NAMES, "lung_scc": [" "]}), "classnames.lung_scc: a list of names"),
        (one_set(names={**NAMES, "lung_scc": ["cancer", "cancer"]}), "stands twice"),
        (
            one_set(names={**NAMES, "lung_scc": ["Normal lung"]}),
            "'Normal lung' stands under the classes lung_n and lung_scc",
        ),
        (one_set(names={**NAMES, "lung_scc": ["lung_n"]}), "stands under the classes lung_n and lung_scc"),
        (one_set(templates=[]), "templates: a list of sentences"),
        (one_set(templates=["CLASSNAME", "an image of classname"]), "templates[1]: 'an image of classname'"),
        (one_set(templates=["CLASSNAME.", "CLASSNAME."]), "templates: 'CLASSNAME.' stands twice"),
    ],
)
def test_a_faulty_file_is_refused_by_its_name_and_the_faulty_key(tmp_path, content, complaint):
    path = written(tmp_path, content)

    with pytest.raises(UserError) as refused:
        read_prompts(path)

    assert str(refused.value).startswith(f"{path}: ")
    assert complaint in str(refused.value)


def test_a_file_that_is_not_there_and_a_name_that_is_not_shipped_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.json: No such file"):
        read_prompts(str(tmp_path / "gone.json"))
    with pytest.raises(UserError, match=r"'lc_lungs' are shipped \(did you mean 'lc_lung'\?\)"):
        read_prompts("lc_lungs")


def shipped(prefix: str = "") -> list[ClassPrompts]:
    return [read_prompts(name) for name in shipped_prompts() if name.startswith(prefix)]


def test_the_shipped_files_name_the_classes_of_the_published_sets():
    for name, classes in PUBLISHED_CLASSES.items():
        assert set(read_prompts(name).classes) == classes
    for name, order in ORDERED_CLASSES.items():
        assert read_prompts(name).classes == tuple(order)


@pytest.mark.parametrize("name", [name for name in shipped_prompts() if name.startswith("phantom_")])
def test_a_phantom_file_has_the_classes_that_its_question_is_answered_with(name):
    (question,) = [one for one in QUESTIONS if one.name == name.removeprefix("phantom_")]

    _, fields = question.make(Deal(0, np.random.default_rng(0), 64, test=True))

    assert question.task in ("choice", "label")
    assert sorted(fields["choices"]) == sorted(read_prompts(name).classes)


def test_the_shipped_files_share_their_templates_so_that_no_set_is_asked_better_than_another():
    histology = {p.templates for p in shipped() if not p.path.stem.startswith(("phantom", "bmt"))}
    phantoms = {p.templates for p in shipped("phantom")}

    assert len(histology) == len(phantoms) == 1
    (of_tissue,) = histology
    of_smears = read_prompts("bmt").templates
    assert len(of_smears) == len(of_tissue) == 20
    assert not any(
        "H&E" in text or "histolog" in text for text in of_smears
    )  # smears are Papanicolaou stained
    assert [text for text in of_tissue if "H&E" not in text and "histolog" not in text] == [
        text for text in of_smears if "Papanicolaou" not in text and "cytolog" not in text
    ]


def test_every_shipped_class_has_several_names():
    for prompts in shipped():
        for label, names in prompts.names.items():
            assert len(names) >= 2, (prompts.path.stem, label)
            assert not any(PLACEHOLDER in name for name in names)


def test_the_shipped_files_are_read_by_conchs_own_steps():
    # json.load, key "0", then replace: the three lines that CONCH's notebook and Patho-R1's script have in common.
    for prompts in shipped():
        given = json.loads(prompts.path.read_text(encoding="utf-8"))["0"]
        for label in prompts.classes:
            texts = [
                template.replace("CLASSNAME", name)
                for name in given["classnames"][label]
                for template in given["templates"]
            ]
            assert texts == prompts.texts(label)


def test_no_shipped_sentence_is_as_long_as_it_would_be_cut():
    # CLIP reads 77 tokens; pathology words take about three each.
    longest = max((text for p in shipped() for label in p.classes for text in p.texts(label)), key=len)

    assert len(longest.split()) <= 25, longest


def test_list_prompts_names_every_shipped_file(capsys):
    assert main(["list", "prompts"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == list(shipped_prompts())
    assert "  bmt: NILM, LSIL, HSIL; 20 templates" in lines
    assert lines[0] == "prompts:"
