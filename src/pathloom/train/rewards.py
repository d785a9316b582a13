"""Rewards: weighted parts of a Task's Score plus shaping. Plain arithmetic on text, no torch.

The score is the one that evaluation reports, so what training raises is what the report shows.

Tasks of one run may have weights of their own. An advantage compares an answer with the others to the same prompt, over
their standard deviation, so weights decide between the parts of one task's reward and not between tasks: all of them
ten times as large move the model as far. Between tasks decide the number of prompts (`tasks`), in DAPO the tokens of
their answers, and how often answers to one prompt differ: credit in small steps (ordinal, BLEU-4, Dice) nearly always
does and so fills more of DAPO's batches than right or wrong.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pathloom.masks import Segmenter
from pathloom.schema import Sample
from pathloom.tasks import TASKS, find_task
from pathloom.tasks.parsing import has_reasoning, is_well_formed
from pathloom.tasks.task import Style, Template

FORMAT = "format"
LENGTH = "length"
SHAPING = (FORMAT, LENGTH)
"""Parts that any task can be given beside those of its Score."""

DEFAULT = "default"
"""Stands in `rewards` for the tasks that are not named there."""

Weights = Mapping[str, float]


@dataclass(frozen=True)
class Reward:
    """What one completion is paid.

    total     weighted sum of `parts`
    accuracy  the same without format and length; 0 < #correct < G of DAPO (arXiv 2503.14476, eq. 8) reads this
    parts     before weighting; those of a Score and `format` in [0, 1], `length` in [-1, 0]
    reasoned  whether there is a think block with something in it before the one answer block
    """

    total: float
    accuracy: float
    parts: Mapping[str, float]
    reasoned: bool


def grade(
    sample: Sample,
    completion: str,
    template: Template,
    weights: Weights,
    *,
    num_tokens: int,
    max_tokens: int,
    cache: int,
    segment: Segmenter | None = None,
) -> Reward:
    """The reward of a completion that was asked in `template`; `num_tokens` counts its end token.

    `segment` draws the masks that the answers of a task `mask` prompt; None: the classical segmenter.

    `format` is Patho-R1's: 1 for one think block, then one answer block, and nothing outside, otherwise 0. It can be
    gamed by an empty think block or an empty answer, which are well-formed: share_reasoning in training.jsonl shows
    the first, and the second is paid no more than a wrong answer.
    """
    score = find_task(sample.task).score(sample, completion, template, segment=segment)
    graded = {
        "correct": score.correct,
        **score.parts,
        FORMAT: float(is_well_formed(completion)),
        LENGTH: overlong_punishment(num_tokens, max_tokens, cache),
    }
    parts = {name: graded.get(name, 0.0) for name in weights}  # a completion without an answer has no parts
    return Reward(
        total=sum(weight * parts[name] for name, weight in weights.items()),
        accuracy=sum(weight * parts[name] for name, weight in weights.items() if name not in SHAPING),
        parts=parts,
        reasoned=has_reasoning(completion),
    )


def overlong_punishment(num_tokens: int, max_tokens: int, cache: int) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), in [-1, 0].

    0 up to max_tokens - cache, then linear down to -1 at max_tokens, and -1 beyond.
    """
    over = num_tokens - (max_tokens - cache)
    return -min(over / cache, 1.0) if over > 0 else 0.0


def default_weights(*, punish_length: bool, style: Style) -> Weights:
    """correct 1, format 1 and, for DAPO, length 1.

    Patho-R1 names these three; its weights are lost in the text we have, and equal ones are the plain reading. The
    style `direct` asks for no think block, so its answers are never well-formed and `format` is left out.
    """
    weights = {"correct": 1.0}
    if style != "direct":
        weights[FORMAT] = 1.0
    if punish_length:
        weights[LENGTH] = 1.0
    return weights


def check_weights(rewards: Mapping[str, Weights], style: Style) -> None:
    """Raise ValueError that names the key and the nearest known one.

    A task takes the parts of its Score that it declares in `Task.rewards`, format and length; `default` takes what
    every task with a rule has. What no rule decides, a caption, is rewarded only where it is named here, by likeness of
    words (BLEU-4): what that is worth says `pathloom.tasks.bleu`.
    """
    known_parts = {**{task.name: task.rewards for task in TASKS}, DEFAULT: ("correct",)}
    for name, weights in rewards.items():
        if name not in known_parts:
            raise ValueError(f"{name}: no task that can be rewarded{_nearest(name, tuple(known_parts))}")
        for part, weight in weights.items():
            known = (*known_parts[name], *SHAPING)
            if part not in known:
                raise ValueError(f"{name}.{part}: no part that can be rewarded{_nearest(part, known)}")
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"{name}.{part}: a weight is positive; leave the part out instead")
        if not set(weights) - set(SHAPING):
            raise ValueError(
                f"{name}: nothing here says what is right; add one of {', '.join(known_parts[name])}"
            )
        if style == "direct" and FORMAT in weights:
            raise ValueError(f"{name}.{FORMAT}: asks for a think block, which the style direct does not have")


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"{hint}; known: {', '.join(known)}"
