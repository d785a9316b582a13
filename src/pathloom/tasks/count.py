"""Counting: the answer is a whole number in digits. Right means equal; the absolute error is a part of the Score."""

from collections.abc import Mapping, Sequence

from pathloom.schema import Sample
from pathloom.tasks.free import free_count
from pathloom.tasks.parsing import read_integer
from pathloom.tasks.task import Answer, Task, Template, most_frequent_share


def _truth(sample: Sample) -> int:
    value = read_integer(sample.answer)
    if value is None:
        raise ValueError(f"sample {sample.id}: a count answer is a whole number, not {sample.answer!r}")
    return value


def _write(sample: Sample, answer: Answer, template: Template) -> str:
    return str(answer)


def _read(sample: Sample, text: str, template: Template) -> int | None:
    return read_integer(text)


def _read_free(sample: Sample, text: str, template: Template) -> int | None:
    return free_count(text)


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    error = abs(int(str(answer)) - _truth(sample))
    return {"correct": float(error == 0), "absolute_error": float(error)}


def _chance(samples: Sequence[Sample]) -> float:
    return most_frequent_share([_truth(sample) for sample in samples])


COUNT = Task(
    name="count",
    version=2,
    metric="accuracy",
    templates=(
        Template("number", "{question}\nAnswer with a number."),
        Template("digits", "{question}\nGive the count in digits."),
        Template("only", "Give only a number. {question}"),
        Template("answer_first", "Answer with the count. {question}"),
        Template("one", "{question}\nAnswer in digits, a number alone."),
    ),
    truth=_truth,
    write=_write,
    read=_read,
    read_free=_read_free,
    grade=_grade,
    chance=_chance,
)
