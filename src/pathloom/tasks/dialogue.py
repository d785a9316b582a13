"""Conversations: the last of several questions, asked after the turns in `Sample.earlier`. No rule decides.

The number reported, token F1 of the last answer against the reference, says nothing about truth.
"""

from dataclasses import replace

from pathloom.schema import Sample
from pathloom.tasks.caption import CAPTION
from pathloom.tasks.task import Answer, Template


def _truth(sample: Sample) -> Answer:
    if not sample.earlier:
        raise ValueError(f"sample {sample.id}: a dialogue sample needs earlier turns")
    return CAPTION.truth(sample)


DIALOGUE = replace(
    CAPTION,
    name="dialogue",
    version=1,
    truth=_truth,
    templates=(
        Template("plain", "{question}"),
        Template("image", "{question}\nAnswer from the image."),
    ),
)
