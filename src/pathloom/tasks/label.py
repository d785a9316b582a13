"""Closed classification: the answer is one label of the fixed set in `choices`, given as text."""

from collections.abc import Mapping, Sequence

from pathloom.schema import Sample
from pathloom.tasks.free import free_text
from pathloom.tasks.parsing import normalise
from pathloom.tasks.task import Answer, Task, Template


def _truth(sample: Sample) -> str:
    if sample.choices and sample.answer not in sample.choices:
        raise ValueError(
            f"sample {sample.id}: the label {sample.answer!r} is not one of {list(sample.choices)}"
        )
    if not sample.answer:
        raise ValueError(f"sample {sample.id}: a label sample needs an answer")
    return sample.answer


def _write(sample: Sample, answer: Answer, template: Template) -> str:
    return str(answer)


def _read(sample: Sample, text: str, template: Template) -> str | None:
    """The label of the set that the text equals; without a set, any single line of text."""
    if not sample.choices:
        return text.strip() if text.strip() and "\n" not in text.strip() else None
    for choice in sample.choices:
        if normalise(text) == normalise(choice):
            return choice
    return None


def _read_free(sample: Sample, text: str, template: Template) -> str | None:
    return free_text(text, sample.choices)


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    return {"correct": float(normalise(str(answer)) == normalise(sample.answer))}


def _chance(samples: Sequence[Sample]) -> float:
    """Balanced accuracy of any constant label is one over the number of labels that occur."""
    num_labels = len({normalise(sample.answer) for sample in samples})
    return 1.0 / num_labels if num_labels else 0.0


LABEL = Task(
    name="label",
    version=2,
    metric="balanced_accuracy",
    templates=(
        Template("classify", "{question}\nAnswer with one of these labels: {labels}."),
        Template("name", "{question}\nName the class: {labels}."),
        Template("labels_first", "Labels: {labels}.\n{question}"),
        Template("answer_first", "Answer with one label of these: {labels}. {question}"),
    ),
    truth=_truth,
    write=_write,
    read=_read,
    read_free=_read_free,
    grade=_grade,
    chance=_chance,
    any_order=True,
)
