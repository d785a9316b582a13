"""Short open answers with a fixed wording: exact match after normalising; token overlap and BLEU-4 as parts."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pathloom.schema import Sample
from pathloom.tasks.bleu import BLEU4, bleu4
from pathloom.tasks.free import free_text
from pathloom.tasks.parsing import normalise
from pathloom.tasks.task import Answer, Task, Template, most_frequent_share

MAX_WORDS = 32
"""A longer text is no short answer: it would gather tokens by volume."""


def token_overlap(answer: str, truth: str) -> dict[str, float]:
    """Precision, recall and F1 over the multiset of words, as PathVQA and Quilt-VQA report for open questions."""
    given, wanted = Counter(normalise(answer).split()), Counter(normalise(truth).split())
    shared = sum((given & wanted).values())
    if not shared:
        return {"token_precision": 0.0, "token_recall": 0.0, "token_f1": 0.0}
    precision, recall = shared / given.total(), shared / wanted.total()
    return {
        "token_precision": precision,
        "token_recall": recall,
        "token_f1": 2 * precision * recall / (precision + recall),
    }


def _truth(sample: Sample) -> str:
    if not normalise(sample.answer):
        raise ValueError(f"sample {sample.id}: a short_answer sample needs an answer")
    return sample.answer


def _write(sample: Sample, answer: Answer, template: Template) -> str:
    return str(answer)


def _read(sample: Sample, text: str, template: Template) -> str | None:
    return text.strip() if 0 < len(text.split()) <= MAX_WORDS else None


def _read_free(sample: Sample, text: str, template: Template) -> str | None:
    return free_text(text, sample.choices)


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    correct = float(normalise(str(answer)) == normalise(sample.answer))
    return {
        "correct": correct,
        **token_overlap(str(answer), sample.answer),
        BLEU4: bleu4(str(answer), sample.answer),
    }


def _chance(samples: Sequence[Sample]) -> float:
    return most_frequent_share([normalise(sample.answer) for sample in samples])


SHORT_ANSWER = Task(
    name="short_answer",
    version=2,
    metric="accuracy",
    templates=(
        Template("short", "{question}\nAnswer in a few words."),
        Template("phrase", "{question}\nGive a short phrase."),
        Template("brief", "Be brief. {question}"),
    ),
    truth=_truth,
    write=_write,
    read=_read,
    read_free=_read_free,
    grade=_grade,
    chance=_chance,
    rewards=("correct", BLEU4),
)
