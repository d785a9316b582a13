"""Captions: describe the picture. No rule decides whether a caption is right, so `checkable` is False.

The numbers reported, token F1 and BLEU-4 against the reference, say how alike the words are and nothing about truth. A
recipe may reward BLEU-4 all the same by naming it; what a constant caption earns stands beside it in the report.
"""

from collections.abc import Mapping, Sequence

from pathloom.schema import Sample
from pathloom.tasks.bleu import BLEU4, bleu4
from pathloom.tasks.parsing import normalise
from pathloom.tasks.short_answer import token_overlap
from pathloom.tasks.task import Answer, Task, Template


def _truth(sample: Sample) -> str:
    if not normalise(sample.answer):
        raise ValueError(f"sample {sample.id}: a caption sample needs an answer")
    return sample.answer


def _write(sample: Sample, answer: Answer, template: Template) -> str:
    return str(answer)


def _read(sample: Sample, text: str, template: Template) -> str | None:
    return text.strip() or None


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    overlap = token_overlap(str(answer), sample.answer)
    return {"correct": overlap["token_f1"], **overlap, BLEU4: bleu4(str(answer), sample.answer)}


def _chance(samples: Sequence[Sample]) -> float:
    """The best constant caption, looked for among the references of the first 50 Samples."""
    candidates = [sample.answer for sample in samples[:50]]
    return max(
        (
            sum(token_overlap(caption, sample.answer)["token_f1"] for sample in samples) / len(samples)
            for caption in candidates
        ),
        default=0.0,
    )


CAPTION = Task(
    name="caption",
    version=3,
    metric="token_f1",
    templates=(
        Template("describe", "{question}\nDescribe the image."),
        Template("caption", "{question}\nWrite a caption."),
        Template("shown", "{question}\nWhat is shown?"),
        Template("describe_first", "Describe what is shown. {question}"),
        Template("image", "{question}\nWrite what the image shows."),
    ),
    truth=_truth,
    write=_write,
    read=_read,
    read_free=_read,
    grade=_grade,
    chance=_chance,
    checkable=False,
    rewards=(BLEU4,),
)
