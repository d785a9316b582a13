"""The rule filters: each rule on small rows of ours, then recall and false drops on rows made from real captions."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from tests.curate.faults import FAULTS
from tests.curate.written import clean_samples, held_out, real_captions
from tests.fixtures import make_sample

from pathloom.curate import config, reasoning
from pathloom.curate.curate import run_curate
from pathloom.curate.entities import Support, entities
from pathloom.curate.prompts import Level, levels
from pathloom.curate.reasoning import RULES, ReasoningFilterStep, sentences
from pathloom.schema import Drop, Event, Sample, Turn
from pathloom.store import read_samples, write_shard

STEP = ReasoningFilterStep(step="reasoning_filter")

CAPTION = (
    "Invasive adenocarcinoma of the colon. Atypical glands infiltrate the muscularis propria; 3 cm, CDX2."
)
REASONING = (
    "At low power, irregular glands lie deep in the wall. Their nuclei are large and hyperchromatic. "
    "Colitis with regenerative change would keep the architecture of the crypts. "
    "The infiltration of the muscle decides for an adenocarcinoma of the colon."
)
OPTIONS = ("Invasive adenocarcinoma", "Tubular adenoma", "Ischaemic colitis", "Lymphoma of the bowel")


def written(task: str = "choice", **fields: Any) -> Sample:
    """What a Generator wrote from CAPTION, without a fault."""
    of_task: dict[str, dict[str, Any]] = {
        "choice": {"question": "What is the diagnosis?", "choices": OPTIONS, "answer": OPTIONS[0]},
        "report": {
            "question": "Describe the image.",
            "answer": "Atypical glands infiltrate the muscle. Impression: adenocarcinoma.",
        },
        "short_answer": {
            "question": "Which process explains the findings?",
            "answer": "Invasive adenocarcinoma",
        },
        "dialogue": {
            "earlier": (Turn(question="What is seen?", answer="Atypical glands infiltrate the muscle."),),
            "question": "What is the diagnosis?",
            "answer": "It is an invasive adenocarcinoma of the bowel.",
        },
        "explain": {"task": "yes_no", "question": "Is this adenocarcinoma?", "answer": "yes"},
    }
    given = {
        "images": (),
        "task": task,
        "level": "medium",
        "context": CAPTION,
        "reasoning": REASONING,
        **of_task[task],
    }
    event = Event(step="reason", version=1, note=f"histopathology/medium/{task}", model="teacher")
    return make_sample(f"a/{task}", history=(event,), **{**given, **fields})


def verdict(sample: Sample, **thresholds: Any) -> str | None:
    record = ReasoningFilterStep(step="reasoning_filter", **thresholds).change(sample)
    if isinstance(record, Drop):
        assert 0 < len(record.detail) <= 200
        assert record.step == "curate.reasoning_filter"
        return record.reason
    assert record is sample
    return None


def adding(sentence: str) -> Sample:
    first, _, rest = REASONING.partition(". ")
    return written(reasoning=f"{first}. {sentence} {rest}")


@pytest.mark.parametrize("task", ["choice", "report", "short_answer", "dialogue", "explain"])
def test_a_clean_row_of_every_task_is_kept(task):
    assert verdict(written(task)) is None


def test_what_no_generator_wrote_is_not_looked_at():
    assert verdict(make_sample("a", images=(), question="**Bold** [X] (A)?")) is None


def test_a_row_that_lost_its_reasoning_is_dropped():
    assert verdict(written(reasoning=None)) == "wrong_length"


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("The cells \u80bf\u7624 are large.", "mixed_language"),
        ("\u041a\u043b\u0435\u0442\u043a\u0438 are large.", "mixed_language"),
        ("The \u03ba and \u03bb chains, in \u00b5m, of Sch\u00fcller\u2019s cells.", None),
        ("The cell\u00e2\u20ac\u2122s border is sharp.", "broken_text"),
        ("The cells\x07 are large.", "broken_text"),
        ("The **cells** are large.", "markup"),
        ("</think> The cells are large.", "markup"),
        ('{"steps": ["The cells are large."]}', "markup"),
        ("A ratio < 2 and > 1 is seen.", "unsupported_finding"),
        ("As an AI, nothing is certain.", "meta_talk"),
        ("I cannot see the image.", "meta_talk"),
        ("The instructions ask for four steps.", "meta_talk"),
        ("This follows from the caption.", "reveals_source"),
        ("According to the text the change is deep.", "reveals_source"),
        ("The gland (A) is irregular.", "reveals_source"),
        ("An arrow points to a gland.", "reveals_source"),
        ("Mitotic figures are frequent in this image.", None),
        ("This has been classically described as a panel of atypical features.", None),
        ("The cells are positive for CD20.", "unsupported_finding"),
        ("A Congo red stain is positive.", "unsupported_finding"),
        ("The same change is present in the thyroid.", "unsupported_finding"),
        ("The lesion measures 7 cm.", "unsupported_finding"),
        ("The lesion measures 30 mm, and CDX-2 is expressed.", None),
        ("CD20 would be positive in a lymphoma.", None),
        ("No granulomas are present.", None),
        ("The carcinomatous glands of the large bowel are malignant.", None),
    ],
)
def test_a_sentence_breaks_a_rule_or_none(sentence, reason):
    assert verdict(adding(sentence)) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"choices": OPTIONS[:3]}, "wrong_choices"),
        ({"choices": (*OPTIONS[1:], "Crohn disease")}, "wrong_choices"),
        ({"choices": (*OPTIONS, "tubular, adenoma.")}, "wrong_choices"),
        ({"question": "What tells an invasive adenocarcinoma?"}, "answer_in_question"),
        ({"question": "Tubular adenoma or invasive adenocarcinoma?"}, None),
        ({"answer": OPTIONS[3], "choices": OPTIONS}, "unsupported_finding"),
    ],
)
def test_choices_are_checked(fields, reason):
    assert verdict(written("choice", **fields)) == reason


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Which stain is the best next step?", "A cytokeratin stain", None),
        ("What is the main differential diagnosis?", "Lymphoma", None),
        ("What is the main differential diagnosis?", "Lymphoma, CD20 positive", "unsupported_finding"),
        ("What is the diagnosis?", "Lymphoma", "unsupported_finding"),
        ("What is the diagnosis?", "Colorectal cancer", None),
    ],
)
def test_an_answer_may_go_beyond_the_text_only_where_it_is_asked_to(question, answer, reason):
    assert verdict(written("short_answer", question=question, answer=answer)) == reason


def test_length_follows_the_level():
    short = "The glands are irregular and deep in the wall."
    long = " ".join([f"Sentence {name} is here." for name in "abcdefghijklm"])

    assert verdict(written(reasoning=short)) == "wrong_length"
    assert verdict(written(reasoning=long)) == "wrong_length"
    assert verdict(written(reasoning=long, level="hard")) is None
    assert verdict(written(reasoning=REASONING.replace(".", ""))) is None, (
        "no full stops at all: words decide"
    )


def test_repetition_has_three_measures():
    sentence = "The glands are irregular and lie deep in the wall."
    loop = REASONING[:-1] + " of the colon" * 8 + "."

    assert verdict(written(reasoning=" ".join([sentence] * 6))) == "repetition"
    assert verdict(written(reasoning=loop)) == "repetition"
    assert verdict(written(reasoning=loop), max_repeated_ngrams=1.0) == "repetition"
    assert verdict(written(reasoning=loop), max_repeated_ngrams=1.0, max_loops=20) is None
    assert verdict(written(reasoning=f"{REASONING} {REASONING}", level="hard")) == "repetition"
    assert verdict(written("report", answer=" ".join([sentence] * 6))) == "repetition"


def test_prose_that_stops_in_the_middle_is_cut_off():
    assert verdict(written(reasoning=REASONING[:-12])) == "cut_off"
    assert verdict(written("report", answer="Atypical glands are seen. Impression: invasive")) == "cut_off"
    assert verdict(written("short_answer", answer="Invasive adenocarcinoma of the colon")) is None


def test_where_only_the_reasoning_was_written_only_it_is_checked():
    assert verdict(written("explain", question="Is the structure at the arrow (A) adenocarcinoma?")) is None
    assert verdict(written("explain", reasoning=f"{REASONING} The arrow marks it.")) == "reveals_source"


def test_initials_and_abbreviations_end_no_sentence():
    assert len(sentences("S. aureus, e.g. Gram positive, is 0.2 mm wide. It grows. H. Pylori does not!")) == 3


def test_spelling_plural_and_hyphen_make_no_difference():
    support = Support(
        "Leukaemic cells, Ki 67 high; HER-2/neu. Cirrhotic liver with tumours 4.5 cm, haemangiomata."
    )
    held = "leukemia Ki-67 HER2 cirrhosis hepatic 45 hemangioma"
    found = list(entities(held))

    assert len(found) == 7
    assert [entity.words for entity in found if not support.holds(entity)] == []


def test_an_unknown_key_is_refused():
    with pytest.raises(ValidationError):
        TypeAdapter(ReasoningFilterStep).validate_python({"step": "reasoning_filter", "max_han": 1})


def test_both_steps_run_in_a_curate_stage(tmp_path: Path):
    entry = {
        "name": "checked",
        "kind": "curate",
        "samples": ["raw"],
        "steps": [{"step": "reasoning_filter"}, {"step": "near_duplicates"}],
    }
    stage = config.CurateConfig.model_validate(entry)
    twin = written().model_copy(update={"id": "twin"})
    telling = adding("The arrow marks it.").model_copy(update={"id": "b"})
    write_shard([written(), telling, twin], [], tmp_path / "raw", 0)

    facts = run_curate(stage, {"raw": tmp_path / "raw"}, tmp_path / "out")

    assert [sample.id for sample in read_samples(tmp_path / "out")] == ["a/choice"]
    assert facts["drops_by_step"] == {"curate.reasoning_filter": 1, "curate.near_duplicates": 1}


# --- measured on real captions --------------------------------------------------------------------------------------

REASON_OF = {
    "mixed language": {"mixed_language"},
    "repetition": {"repetition"},
    "too short": {"wrong_length"},
    "too long": {"wrong_length"},
    "reveals the text": {"reveals_source"},
    "invented, in the answer": {"unsupported_finding"},
    "invented, as conclusion": {"unsupported_finding"},
    "invented, in a step": {"unsupported_finding"},
    "tags or markup": {"markup"},
    "bad choices": {"wrong_choices", "answer_in_question"},
    "meta talk": {"meta_talk"},
    "cut off": {"cut_off"},
    "broken text": {"broken_text"},
}
"""Fault -> reasons that name it rightly. Another reason drops the row as well, and is counted apart."""

NUM_PLANTED = 150


@pytest.fixture(scope="module")
def halves(data_root: Path) -> dict[str, list[Sample]]:
    captions = real_captions(data_root)
    return {
        name: clean_samples([caption for caption in captions if held_out(caption.id) == held])
        for name, held in (("tuning", False), ("held out", True))
    }


def test_every_rule_is_named_by_a_fault():
    assert set().union(*REASON_OF.values()) == {reason for reason, _ in RULES}
    assert set(REASON_OF) == set(FAULTS)


@pytest.mark.parametrize("half", ["tuning", "held out"])
def test_clean_rows_on_real_captions_are_kept(halves, half):
    drops = Counter(v.reason for v in map(STEP.change, halves[half]) if isinstance(v, Drop))
    num = len(halves[half])
    print(f"\n{half}: {num} clean rows, {drops.total()} dropped ({drops.total() / num:.1%}) {dict(drops)}")

    assert num >= 300
    assert drops.total() <= 0.02 * num


@pytest.mark.parametrize("half", ["tuning", "held out"])
def test_planted_faults_on_real_captions_are_found(halves, half):
    found = {}
    print(f"\n{half:28} rows  dropped  by the right rule")
    for name, plant in FAULTS.items():
        rng = np.random.default_rng(1)
        rows = [row for row in halves[half] if name != "bad choices" or row.task == "choice"][:NUM_PLANTED]
        verdicts = [STEP.change(plant(row, rng, rows)) for row in rows]
        reasons = [v.reason for v in verdicts if isinstance(v, Drop)]
        right = sum(reason in REASON_OF[name] for reason in reasons)
        found[name] = len(reasons) / len(rows)
        print(f"{name:28} {len(rows):4}  {found[name]:7.3f}  {right / len(rows):7.3f}")
        assert len(rows) >= 60

    assert {name: recall for name, recall in found.items() if recall < 0.95} == {}


def test_other_bounds_of_a_level_are_another_key(monkeypatch):
    before = STEP.fingerprint()
    monkeypatch.setattr(reasoning, "levels", lambda: {**levels(), "hard": Level(9, 12)})

    assert STEP.fingerprint() != before
