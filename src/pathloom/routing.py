"""Samples that were routed to reviewers: who says so, and until when. Nobody learns from them or is measured by it."""

from pathloom.schema import Event, Sample

CONTRADICTION = "contradiction"
"""The field of review about a Sample whose class and attributes contradict each other, as the step `expert` found."""

REVIEW_NOTE = "review: "
"""Begins the note of the event by which the step `expert` sends a Sample to reviewers."""


def review_note(sample: Sample) -> str | None:
    """Why the step `expert` sent the Sample to reviewers; None where it did not, or where they have settled it."""
    for event in reversed(sample.history):
        if _settles(event):
            return None
        if event.step == "curate.expert" and event.note.startswith(REVIEW_NOTE):
            return event.note.removeprefix(REVIEW_NOTE)
    return None


def awaits_review(sample: Sample) -> bool:
    """Whether a person has yet to settle a contradiction between class and attributes."""
    return review_note(sample) is not None


def is_settled(sample: Sample) -> bool:
    """Whether a person has judged a contradiction between class and attributes of this Sample."""
    return any(map(_settles, sample.history))


def _settles(event: Event) -> bool:
    return event.step == "curate.reviewed" and event.note.startswith(f"{CONTRADICTION} ")
