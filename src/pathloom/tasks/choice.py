"""Multiple choice: one of several options, asked by letter, kept and graded by the option's text."""

from collections.abc import Mapping, Sequence

from pathloom.schema import Sample
from pathloom.tasks.free import free_choice
from pathloom.tasks.parsing import normalise, read_letter
from pathloom.tasks.task import Answer, Task, Template, letter, most_frequent_share


def _truth(sample: Sample) -> str:
    matching = [choice for choice in sample.choices if normalise(choice) == normalise(sample.answer)]
    if len(matching) != 1:
        raise ValueError(
            f"sample {sample.id}: the answer {sample.answer!r} is not one of {list(sample.choices)}"
        )
    return matching[0]


def _write(sample: Sample, answer: Answer, template: Template) -> str:
    return str(answer) if template.option_as == "words" else letter(sample.choices.index(str(answer)))


def _read(sample: Sample, text: str, template: Template) -> str | None:
    """A letter, a letter followed by its own option (`B. necrosis`), or exactly one option's text."""
    index = read_letter(text, len(sample.choices))
    if index is not None:
        return sample.choices[index]
    for index, choice in enumerate(sample.choices):
        forms = (
            choice,
            *(form + choice for form in (f"{letter(index)}. ", f"{letter(index)}) ", f"({letter(index)}) ")),
        )
        if normalise(text) in map(normalise, forms):
            return choice
    return None


def _read_free(sample: Sample, text: str, template: Template) -> str | None:
    return free_choice(text, sample.choices)


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    return {"correct": float(normalise(str(answer)) == normalise(sample.answer))}


def _chance(samples: Sequence[Sample]) -> float:
    """The best constant answer is a letter or, where options recur, a text."""
    letters = [_write(sample, _truth(sample), CHOICE.templates[0]) for sample in samples]
    return max(
        most_frequent_share(letters), most_frequent_share([normalise(sample.answer) for sample in samples])
    )


CHOICE = Task(
    name="choice",
    version=3,
    metric="accuracy",
    templates=(
        Template("letter", "{question}\n{options}\nAnswer with the letter of the right option."),
        Template("pick", "{question}\nOptions:\n{options}\nPick one option and give its letter."),
        Template("which", "{question}\n{options}\nWhich option is right? Give the letter."),
        Template("options_first", "{options}\n{question}\nReply with one letter."),
        Template("answer_first", "Answer with the letter of one option. {question}\n{options}"),
        Template("right", "{question}\n{options}\nOne option is right. Answer with the letter."),
        Template("name_letter", "{question}\n{options}\nName the letter of the right option."),
        # A model must learn to bind letters to options; in words it need not, so the two tell seeing from binding.
        Template(
            "words", "{question}\n{options}\nAnswer with the words of the right option.", option_as="words"
        ),
        Template(
            "right_words",
            "{question}\n{options}\nOne option is right. Answer with its words.",
            option_as="words",
        ),
        Template(
            "own_words", "{question}\nOptions:\n{options}\nGive one option in its words.", option_as="words"
        ),
        Template(
            "which_words",
            "{question}\n{options}\nWhich option is right? Answer with the words of the option.",
            option_as="words",
        ),
    ),
    truth=_truth,
    write=_write,
    read=_read,
    read_free=_read_free,
    grade=_grade,
    chance=_chance,
)
