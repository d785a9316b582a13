"""Grades and extents: one label of an ordered scale, `choices` from the lowest to the highest, never shuffled.

Beside the exact match an answer earns ordinal credit, 1 - |i - j| / (n - 1) for the places i and j of answer and truth
among n choices: the agreement weight of a weighted kappa that is linear in the distance (Cohen 1968, Psychological
Bulletin 70, 213-220). Linear, because the middle step of an odd scale, whatever the truth, is then worth 0.5 or more
and with the quadratic weight 0.75 or more: what a policy gains by looking is the rest. Said of five steps that are
equally frequent, it earns 0.7 (`best_constant_credit`), and exact matches 0.2: reward both.
"""

from collections.abc import Mapping, Sequence

from pathloom.schema import Sample
from pathloom.tasks.free import free_text
from pathloom.tasks.label import LABEL
from pathloom.tasks.parsing import normalise
from pathloom.tasks.task import Answer, Task, Template

ORDINAL_CREDIT = "ordinal"


def best_constant_credit(samples: Sequence[Sample]) -> float:
    """Mean ordinal credit of the best label that is given to every Sample; 0 for no Samples."""
    labels = dict.fromkeys(label for sample in samples for label in sample.choices)
    return max(
        (
            sum(_grade(sample, label)[ORDINAL_CREDIT] for sample in samples if label in sample.choices)
            / len(samples)
            for label in labels
        ),
        default=0.0,
    )


def place_on_scale(sample: Sample, label: str) -> int:
    """Index of `label` in the Sample's ordered choices, 0 the lowest. Raises ValueError where it is none of them."""
    places = [index for index, choice in enumerate(sample.choices) if normalise(choice) == normalise(label)]
    if len(places) != 1:
        raise ValueError(f"sample {sample.id}: {label!r} is not one of the scale {list(sample.choices)}")
    return places[0]


def _truth(sample: Sample) -> str:
    if len(sample.choices) < 2:
        raise ValueError(
            f"sample {sample.id}: a scale has two choices or more, from the lowest to the highest"
        )
    return sample.choices[place_on_scale(sample, sample.answer)]


def _read(sample: Sample, text: str, template: Template) -> str | None:
    """The one label of the scale that the text equals; nothing without a scale."""
    return LABEL.read(sample, text, template) if sample.choices else None  # type: ignore[return-value]


def _read_free(sample: Sample, text: str, template: Template) -> str | None:
    return free_text(text, sample.choices)


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    steps = abs(place_on_scale(sample, str(answer)) - place_on_scale(sample, sample.answer))
    return {"correct": float(steps == 0), ORDINAL_CREDIT: 1 - steps / (len(sample.choices) - 1)}


ORDINAL = Task(
    name="ordinal",
    version=2,
    metric="balanced_accuracy",
    templates=(
        Template("grade", "{question}\nAnswer with one step of this scale, lowest first: {labels}."),
        Template("scale", "{question}\nThe scale, from the lowest to the highest: {labels}. Name the step."),
        Template("scale_first", "Scale, lowest first: {labels}.\n{question}"),
        Template("answer_first", "Answer with one step of this rising scale: {labels}. {question}"),
    ),
    truth=_truth,
    write=LABEL.write,
    read=_read,
    read_free=_read_free,
    grade=_grade,
    chance=LABEL.chance,
    rewards=("correct", ORDINAL_CREDIT),
)
