"""Which known finding a text of reasoning names: a rule, not a judge."""

import re
from collections.abc import Collection, Iterable
from functools import lru_cache

from pathloom.schema import Sample
from pathloom.tasks.parsing import normalise


def named_finding(reasoning: str, vocabulary: Collection[str]) -> str | None:
    """The known finding mentioned last, in the vocabulary's spelling; None for none.

    Case and line breaks do not matter, only whole words count, and of findings that begin at the same place the
    longest is meant ("carcinoma in situ", not "carcinoma"). Last, because reasoning weighs alternatives before
    it settles. A denied finding ("no necrosis") counts as mentioned: denial is not understood.
    """
    known = tuple(sorted({text for text in vocabulary if normalise(text)}))
    if not known:
        return None
    pattern, spelling = _pattern(known)
    mentioned = pattern.findall(" ".join(reasoning.casefold().split()))
    return spelling[mentioned[-1]] if mentioned else None


def finding_vocabulary(samples: Iterable[Sample]) -> frozenset[str]:
    """All findings that these Samples have or ask about, and the options among which a finding is the answer."""
    known: set[str] = set()
    for sample in samples:
        known.update(finding for finding in (sample.finding, sample.asked_finding) if finding)
        if sample.finding and normalise(sample.finding) == normalise(sample.answer):
            known.update(sample.choices)
    return frozenset(known)


@lru_cache(maxsize=64)
def _pattern(known: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    spelling = {normalise(text): text for text in known}
    longest_first = sorted(spelling, key=lambda text: (-len(text), text))
    words = "|".join(map(re.escape, longest_first))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)"), spelling
