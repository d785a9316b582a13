"""Conversations: the last of several questions, asked after the turns in `Sample.earlier`. No rule decides.

Measured and, where a recipe names BLEU-4, rewarded as captions are, by the last answer.
"""

from dataclasses import replace

from pathloom.tasks.caption import CAPTION
from pathloom.tasks.task import Template

DIALOGUE = replace(
    CAPTION,
    name="dialogue",
    version=2,
    templates=(
        Template("plain", "{question}"),
        Template("image", "{question}\nAnswer from the image."),
    ),
)
