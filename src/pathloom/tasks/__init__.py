"""The kinds of question. A new kind is one file and one entry in TASKS; tests/contracts covers it on arrival."""

from pathloom.tasks.boxes import BOXES
from pathloom.tasks.caption import CAPTION
from pathloom.tasks.choice import CHOICE
from pathloom.tasks.count import COUNT
from pathloom.tasks.dialogue import DIALOGUE
from pathloom.tasks.label import LABEL
from pathloom.tasks.mask import MASK
from pathloom.tasks.ordinal import ORDINAL
from pathloom.tasks.report import REPORT
from pathloom.tasks.short_answer import SHORT_ANSWER
from pathloom.tasks.task import Task
from pathloom.tasks.yes_no import YES_NO

TASKS: tuple[Task, ...] = (
    CHOICE,
    YES_NO,
    LABEL,
    ORDINAL,
    COUNT,
    SHORT_ANSWER,
    CAPTION,
    REPORT,
    DIALOGUE,
    BOXES,
    MASK,
)


def find_task(name: str) -> Task:
    """The Task called `name`. Raises ValueError that lists the known ones."""
    for task in TASKS:
        if task.name == name:
            return task
    raise ValueError(f"no task {name!r}; known: {', '.join(task.name for task in TASKS)}")
