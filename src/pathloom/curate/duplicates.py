"""Step `image_duplicates`: Samples whose pictures are near-copies: crops, turns, mirrors, zooms of one another."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathloom.curate.near_copies import (
    NUM_SHOWN,
    TRAIN,
    Copy,
    NearCopyStep,
    Pictures,
    grouped,
    image_features,
    look,
    near_copies,
)
from pathloom.curate.step import Prepared, Read
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError


class ImageDuplicatesStep(NearCopyStep):
    """Entry of `steps`: `{step: image_duplicates, features: seen}`; how copies are found: pathloom.curate.near_copies.

    action: drop   A picture is dropped when one that is kept is its copy. Held-out Samples are kept before training
                   ones, then the earlier before the later. Each drop is a copy of something kept, so no chain of
                   overlapping fields drops what resembles nothing that is kept.
    action: group  Nothing is dropped. Whatever a chain of copies or a group connects gets the first one's
                   `Origin.group`, so that group-safe few-shot draws and the bootstrap keep it together. Splits are made
                   at ingest and this cannot change them: copies on two sides raise UserError, naming them. So do copies
                   in two sources, which no group can join, and a chain of more than `max_group` pictures, as
                   overlapping fields of a slide make. Drop such copies, or give ingest the true groups.

    Dropped in both: a picture that cannot be read or has no finite vector. Samples without pictures are left alone.
    The facts are counts of pictures, groups by size (by chains of copies), and the closest pairs.
    """

    version: ClassVar[int] = 1

    step: Literal["image_duplicates"]
    action: Literal["drop", "group"] = "drop"
    overlap: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="shared part of the smaller field; copies in lc25000's tuning half share 0.82 at least, "
        "neighbouring fields of a slide mostly less than half; 0 finds these too",
    )
    max_group: int = Field(default=200, ge=2, description="pictures in one chain; our own choice")

    def needs(self) -> tuple[str, ...]:
        return (self.features,)

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        seen = look(read(), image_features(inputs[self.features], self.features), self.features)
        copies = near_copies(self, seen, read)
        facts = _facts(seen, copies)
        if self.action == "drop":
            copy_of = _kept_copies(copies, seen.splits)
            facts["pictures_dropped"] = len(copy_of)
            groups: dict[tuple[str, str], str] = {}
        else:
            copy_of = {}
            self._check_groups(seen, copies)
            groups = _joined_groups(copies, seen.clusters)
            facts["groups_widened"] = len(groups)

        def change(sample: Sample) -> Sample | Drop:
            if not sample.images:
                return sample
            fault = seen.fault(sample)
            if fault is not None:
                return self.drop(sample, *fault)
            copy = copy_of.get(seen.row_of[sample.id])
            if copy is not None:
                kept, how = copy
                return self.drop(sample, "near_copy", f"of {seen.ids[kept]} ({how})")
            group = groups.get(sample.origin.cluster)
            if group is None:
                return sample
            origin = sample.origin.model_copy(update={"group": group})
            return sample.changed(self.event(f"group {sample.origin.group} joins {group}"), origin=origin)

        return Prepared(change, facts)

    def _check_groups(self, seen: Pictures, copies: Sequence[Copy]) -> None:
        """Raises UserError where groups cannot keep copies together."""
        where = f"step {self.step} (action: group)"
        cure = "use action: drop before it, or give ingest the groups"
        sides = [copy for copy in copies if seen.splits[copy.one] != seen.splits[copy.other]]
        sources = [copy for copy in copies if seen.clusters[copy.one][0] != seen.clusters[copy.other][0]]
        for found, trouble in ((sides, "on two sides of the split"), (sources, "in two sources")):
            if found:
                named = "; ".join(f"{seen.ids[copy.one]} and {seen.ids[copy.other]}" for copy in found[:5])
                raise UserError(
                    f"{where}: {len(found)} pairs of near-copies stand {trouble}: {named}; {cure}"
                )
        root, sizes = np.unique(_chains(len(seen.ids), copies), return_counts=True)
        if len(sizes) and sizes.max() > self.max_group:
            raise UserError(
                f"{where}: a chain of copies from {seen.ids[root[sizes.argmax()]]} holds {sizes.max()} pictures, more "
                f"than max_group {self.max_group}: these may be overlapping fields; {cure}, or raise max_group"
            )


def _kept_copies(copies: Sequence[Copy], splits: Sequence[str]) -> dict[int, tuple[int, Copy]]:
    """By the dropped row: the kept one of which it is a copy."""
    partners: dict[int, list[Copy]] = {}
    for copy in copies:
        partners.setdefault(copy.one, []).append(copy)
        partners.setdefault(copy.other, []).append(copy)
    dropped: dict[int, tuple[int, Copy]] = {}
    kept: set[int] = set()
    for row in sorted(partners, key=lambda row: (splits[row] == TRAIN, row)):
        for copy in partners[row]:
            other = copy.one if copy.other == row else copy.other
            if other in kept:
                dropped[row] = (other, copy)
                break
        else:
            kept.add(row)
    return dropped


def _joined_groups(copies: Sequence[Copy], clusters: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(source, group) -> the group of its chain that came first, of all whose group changes."""
    first_row: dict[tuple[str, str], int] = {}
    for row, cluster in enumerate(clusters):
        first_row.setdefault(cluster, row)
    pairs = ((first_row[clusters[copy.one]], first_row[clusters[copy.other]]) for copy in copies)
    roots = grouped(len(clusters), pairs).tolist()
    return {cluster: clusters[roots[row]][1] for cluster, row in first_row.items() if roots[row] != row}


def _chains(num: int, copies: Sequence[Copy]) -> NDArray[np.int64]:
    return grouped(num, ((copy.one, copy.other) for copy in copies))


def _facts(seen: Pictures, copies: Sequence[Copy]) -> dict[str, Any]:
    _, sizes = np.unique(_chains(len(seen.ids), copies), return_counts=True)
    across = [copy for copy in copies if seen.splits[copy.one] != seen.splits[copy.other]]
    closest = sorted(copies, key=lambda copy: (copy.points is not None, -(copy.points or 0), -copy.cosine))
    return {
        "pictures_compared": len(seen.ids),
        "not_compared": dict(sorted(Counter(reason for reason, _ in seen.faults.values()).items())),
        "pairs": len(copies),
        "pairs_by": dict(Counter(copy.by for copy in copies)),
        "pairs_across_splits": len(across),
        "groups": int((sizes > 1).sum()),
        "group_sizes": {str(size): int((sizes == size).sum()) for size in np.unique(sizes) if size > 1},
        "closest_pairs": [_row(seen, copy) for copy in closest[:NUM_SHOWN]],
        "leaks_across_splits": [_row(seen, copy) for copy in across[:NUM_SHOWN]],
    }


def _row(seen: Pictures, copy: Copy) -> dict[str, Any]:
    return {
        "one": seen.ids[copy.one],
        "other": seen.ids[copy.other],
        "splits": f"{seen.splits[copy.one]}, {seen.splits[copy.other]}",
        "by": copy.by,
        "hash_bits": "" if copy.bits is None else copy.bits,
        "cosine": round(copy.cosine, 4),
        "points": "" if copy.points is None else copy.points,
        "overlap": "" if copy.overlap is None else round(copy.overlap, 3),
    }
