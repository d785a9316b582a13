"""Yes/no questions. An empty or off-topic reply is no answer; Quilt-LLaVA's scorer counts it as yes."""

from collections.abc import Mapping, Sequence

from pathloom.schema import Sample
from pathloom.tasks.free import free_yes_no
from pathloom.tasks.parsing import normalise
from pathloom.tasks.task import Answer, Task, Template, most_frequent_share


def _truth(sample: Sample) -> str:
    answer = normalise(sample.answer)
    if answer not in ("yes", "no"):
        raise ValueError(f"sample {sample.id}: a yes_no answer is yes or no, not {sample.answer!r}")
    return answer


def _write(sample: Sample, answer: Answer, template: Template) -> str:
    return str(answer)


def _read(sample: Sample, text: str, template: Template) -> str | None:
    answer = normalise(text)
    return answer if answer in ("yes", "no") else None


def _read_free(sample: Sample, text: str, template: Template) -> str | None:
    return free_yes_no(text)


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    return {"correct": float(answer == _truth(sample))}


def _chance(samples: Sequence[Sample]) -> float:
    return most_frequent_share([_truth(sample) for sample in samples])


YES_NO = Task(
    name="yes_no",
    version=2,
    metric="accuracy",
    templates=(
        Template("plain", "{question}\nAnswer yes or no."),
        Template("choose", "{question}\nChoose from yes and no."),
        Template("reply", "Yes or no? {question}"),
        Template("answer_first", "Answer with yes or no. {question}"),
        Template("which", "{question}\nIs the answer yes or no?"),
    ),
    truth=_truth,
    write=_write,
    read=_read,
    read_free=_read_free,
    grade=_grade,
    chance=_chance,
)
