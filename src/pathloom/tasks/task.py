"""What a Task is: how a Sample is asked, answered, read and graded. Trainers and evaluation share this one definition.

Composition, not inheritance: a Task is a frozen bundle of plain functions, one file a kind, listed in
`pathloom.tasks.TASKS`. Reward and metric are readers of the Score that `Task.score` gives.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pathloom.masks import Point, Segmenter
from pathloom.schema import Box, Sample
from pathloom.tasks.parsing import split_completion

Answer = str | int | tuple[Box, ...] | tuple[Point, ...]
Frame = Literal["px", "norm1000"]
"""px: pixels of the stored picture. norm1000: thousandths of its width and height (Qwen3-VL's convention)."""

MAX_OPTIONS = 26

Style = Literal["cot", "cod", "direct"]

SYSTEM_PROMPTS: Mapping[Style, str] = {
    # Patho-R1 README (Chain-of-Thought prompt), in our own words.
    "cot": "You are a pathology expert. Reason step by step in <think></think>, then answer in <answer></answer>.",
    # Patho-R1 README (Chain-of-Draft prompt) and Xu et al. 2025, "Chain of Draft": five words a step at most.
    "cod": "You are a pathology expert. Draft each step in <think></think> in at most five words, "
    "then answer in <answer></answer>.",
    # SmartPath-R1's predecessor (arXiv 2505.15687) trains its first stage without reasoning.
    "direct": "You are a pathology expert. Answer in <answer></answer>.",
}


@dataclass(frozen=True)
class Template:
    """One wording of the user turn. `text` has the fields {question} and, where wanted, {options} or {labels}.

    {options} are lettered, one a line; {labels} stand in a row. `frame` is what box coordinates are counted in;
    `option_as` is how a choice is answered, `place_as` how a place.
    """

    name: str
    text: str
    frame: Frame = "px"
    option_as: Literal["letter", "words"] = "letter"
    place_as: Literal["box", "point"] = "box"


@dataclass(frozen=True)
class Prompt:
    """A rendered request: what the chat template turns into tokens. Pictures come first, then the text.

    `earlier` are the (question, answer) turns before `user`; the pictures then stand in the first of them.
    """

    system: str
    user: str
    num_images: int
    earlier: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict[str, Any]]:
        """Chat messages in the form that transformers and TRL read; the pictures travel beside them."""
        turns = [("system", self.system)]
        for question, answer in self.earlier:
            turns += [("user", question), ("assistant", answer)]
        turns.append(("user", self.user))
        pictures: list[dict[str, str]] = [{"type": "image"}] * self.num_images
        return [
            {"role": role, "content": [*(pictures if place == 1 else []), {"type": "text", "text": text}]}
            for place, (role, text) in enumerate(turns)
        ]


@dataclass(frozen=True)
class Score:
    """What grading gives: the parsed answer (None when there is none), correctness in [0, 1] and named parts."""

    answer: Answer | None
    correct: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A kind of question.

    truth(sample)                    the right answer in parsed form; raises ValueError when the Sample lacks it
    write(sample, answer, template)  an answer as the text that stands in the answer block
    read(sample, text, template)     the strict inverse: text of the answer block -> answer or None, never raises
    read_free(sample, text, template)  the lenient parser for models never taught tags: whole completion -> answer
    grade(sample, answer)            named parts of the Score, "correct" among them
    chance(samples)                  value of `metric` that the best constant answer reaches
    checkable                        whether a rule decides; otherwise a judge must, and reinforcement refuses it unless
                                     the recipe names one of `rewards`
    rewards                          parts of the Score that may be rewarded: in [0, 1], larger is better
    any_order                        whether `choices` are a set: training asks them in a new order each time
    grade_drawn(sample, answer, segment)  `grade` by the masks that `segment` draws from the answer; None: draws none
    """

    name: str
    version: int
    metric: str
    templates: tuple[Template, ...]
    truth: Callable[[Sample], Answer]
    write: Callable[[Sample, Answer, Template], str]
    read: Callable[[Sample, str, Template], Answer | None]
    read_free: Callable[[Sample, str, Template], Answer | None]
    grade: Callable[[Sample, Answer], Mapping[str, float]]
    chance: Callable[[Sequence[Sample]], float]
    checkable: bool = True
    rewards: tuple[str, ...] = ("correct",)
    any_order: bool = False
    grade_drawn: Callable[[Sample, Answer, Segmenter], Mapping[str, float]] | None = None

    def template(self, name: str) -> Template:
        """The template called `name`. Raises ValueError that lists the known ones."""
        for template in self.templates:
            if template.name == name:
                return template
        known = ", ".join(template.name for template in self.templates)
        raise ValueError(f"task {self.name} has no template {name!r}; it has {known}")

    def render(self, sample: Sample, template: Template, style: Style) -> Prompt:
        """The one place where a Sample becomes a prompt."""
        user = template.text.format(
            question=sample.question,
            options=write_options(sample.choices) if "{options}" in template.text else "",
            labels="; ".join(sample.choices),
        )
        earlier = tuple((turn.question, turn.answer) for turn in sample.earlier)
        return Prompt(SYSTEM_PROMPTS[style], user, len(sample.images), earlier)

    def target(self, sample: Sample, template: Template, style: Style) -> str:
        """The completion that training teaches: the reasoning unless the style is direct, then the answer block."""
        answer = f"<answer>{self.write(sample, self.truth(sample), template)}</answer>"
        if style == "direct" or sample.reasoning is None:
            return answer
        return f"<think>{sample.reasoning}</think>{answer}"

    def parse(self, sample: Sample, completion: str, template: Template) -> Answer | None:
        """Strict: exactly one answer block, reasoning optional, and a well-formed answer in it; otherwise None."""
        blocks = split_completion(completion)
        return None if blocks is None else self.read(sample, blocks.answer, template)

    def score(
        self,
        sample: Sample,
        completion: str,
        template: Template,
        *,
        free: bool = False,
        segment: Segmenter | None = None,
    ) -> Score:
        """Parse and grade a completion. No answer scores 0 in every part.

        `segment` draws the masks of a task that is graded by masks, in place of the classical segmenter.
        """
        answer = (
            self.read_free(sample, completion, template) if free else self.parse(sample, completion, template)
        )
        if answer is None:
            return Score(answer=None, correct=0.0)
        if segment is not None and self.grade_drawn is not None:
            parts = dict(self.grade_drawn(sample, answer, segment))
        else:
            parts = dict(self.grade(sample, answer))
        return Score(answer=answer, correct=parts.pop("correct"), parts=parts)


def letter(index: int) -> str:
    """0 -> A, up to MAX_OPTIONS - 1 -> Z."""
    return chr(ord("A") + index)


def write_options(choices: Sequence[str]) -> str:
    """Options one a line: `A. text`, as Patho-R1's README prints them. Raises ValueError beyond Z."""
    if len(choices) > MAX_OPTIONS:
        raise ValueError(f"{len(choices)} options, but letters end at Z; ask a `label` question instead")
    return "\n".join(f"{letter(index)}. {choice}" for index, choice in enumerate(choices))


def most_frequent_share(values: Sequence[object]) -> float:
    """Share of the commonest value: the accuracy of the best constant answer. 0 for no values."""
    if not values:
        return 0.0
    counts: dict[object, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return max(counts.values()) / len(values)
