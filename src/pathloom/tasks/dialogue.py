"""Conversations: the last of several questions, asked after the turns in `Sample.earlier`. No rule decides.

The number reported, token F1 of the last answer against the reference, says nothing about truth.
"""

from dataclasses import replace

from pathloom.tasks.caption import CAPTION
from pathloom.tasks.task import Template

DIALOGUE = replace(
    CAPTION,
    name="dialogue",
    version=1,
    templates=(
        Template("plain", "{question}"),
        Template("image", "{question}\nAnswer from the image."),
    ),
)
