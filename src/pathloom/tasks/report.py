"""Reports: a description in full sentences, closed by an impression. No rule decides whether it is right.

Measured and, where a recipe names BLEU-4, rewarded as captions are.
"""

from dataclasses import replace

from pathloom.tasks.caption import CAPTION
from pathloom.tasks.task import Template

REPORT = replace(
    CAPTION,
    name="report",
    version=2,
    templates=(
        Template("report", "{question}\nDescribe the findings, then give an impression."),
        Template("describe", "{question}\nWrite a report of what the image shows."),
        Template("findings_first", "Write findings and impression. {question}"),
        Template("plain", "{question}"),
    ),
)
