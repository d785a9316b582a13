"""Lines to paragraphs: torn lines mended, lines that are set alike and follow closely joined, captions kept apart."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pathloom.books.geometry import center_x, center_y, height, overlap_x, overlap_y, union, width
from pathloom.books.numbers import caption_start
from pathloom.books.page import Line, Page
from pathloom.books.profile import Profile, same_size, size_slack

NEAR_LINES = 40
"""So many lines before and after one in the order of the page may concern it: twelve columns of three lines."""
_BULLET = re.compile(r"[\u2022\u2023\u25aa\u25cf\u25a0\u25e6\u2013\u2014]\s|\d{1,2}[.)]\s|[*-]\s")
ENDS = re.compile(r"[.!?:;\u3002\uff01\uff1f\uff1a\uff1b]['\")\]\u201d\u2019\uff09]*$")


def paragraphs(lines: Sequence[Line], page: Page, book: Profile) -> list[list[Line]]:
    """The lines of a page, furniture apart, as groups; a caption is a group of its own."""
    return _whole_captions(_group(_mend_rows(lines), page), book)


def _group(lines: Sequence[Line], page: Page) -> list[list[Line]]:
    """Lines into paragraphs: each line follows the one right above it if both are set alike."""
    ordered = sorted(lines, key=lambda line: (line.box_pt[1], line.box_pt[0]))
    slack = max(size_slack(page), 0.13 if page.text_from == "ocr" else 0.0)
    pitch = _pitches(ordered, slack)
    follows: dict[int, int] = {}
    has_next: set[int] = set()
    for below, line in enumerate(ordered):
        above = _line_above(ordered, below)
        if above is None or above in has_next:
            continue
        if above in follows and _steps_out(ordered[above], line):
            continue
        if _continues(ordered[above], line, pitch, slack):
            follows[below] = above
            has_next.add(above)
    groups: dict[int, list[Line]] = {}
    root: dict[int, int] = {}
    for index, line in enumerate(ordered):
        root[index] = root[follows[index]] if index in follows else index
        groups.setdefault(root[index], []).append(line)
    return [part for group in groups.values() for part in _split_at_captions(group, page)]


def _mend_rows(lines: Sequence[Line]) -> list[Line]:
    """Join the pieces of a line that justification has torn apart.

    Within a column the line above or below runs through such a gap, and none has a gap at the same place, as rows of
    a table and of two columns have.
    """
    ordered = sorted(lines, key=lambda line: center_y(line.box_pt))
    done: list[Line] = []
    taken: set[int] = set()
    for at, line in enumerate(ordered):
        if id(line) in taken:
            continue
        near = [one for one in _near(ordered, at, 2.2 * line.size_pt) if id(one) not in taken]
        row = [one for one in near if overlap_y(one.box_pt, line.box_pt) > 0.6 * height(line.box_pt)]
        walls = list(_near(ordered, at, 2.2 * line.size_pt)) if row else []
        pieces = [line]
        while joint := next((one for one in row if _is_torn(pieces[-1], one, walls)), None):
            pieces.append(joint)
            row.remove(joint)
        while joint := next((one for one in row if _is_torn(one, pieces[0], walls)), None):
            pieces.insert(0, joint)
            row.remove(joint)
        taken.update(map(id, pieces))
        done.append(line if len(pieces) == 1 else _one_line(pieces))
    return done


def _near(ordered: Sequence[Line], at: int, distance_pt: float) -> Iterable[Line]:
    """Lines within the distance above, beside and below; of a page that is nothing but lines, the next ones."""
    middle = center_y(ordered[at].box_pt)
    for index in (
        *range(at - 1, max(-1, at - NEAR_LINES), -1),
        *range(at + 1, min(len(ordered), at + NEAR_LINES)),
    ):
        if abs(center_y(ordered[index].box_pt) - middle) <= distance_pt:
            yield ordered[index]


def _is_torn(left: Line, right: Line, near: Iterable[Line]) -> bool:
    start, end = left.box_pt[2], right.box_pt[0]
    if not 0 < end - start < 8 * left.size_pt or abs(left.size_pt - right.size_pt) > 0.1 * left.size_pt:
        return False
    if overlap_y(left.box_pt, right.box_pt) < 0.6 * height(left.box_pt):
        return False
    others = [one for one in near if overlap_y(one.box_pt, left.box_pt) < 0.4 * height(left.box_pt)]
    through = [one for one in others if one.box_pt[0] < start - 1 and one.box_pt[2] > end + 1]
    if not through:
        return False
    for stop in others:  # a gutter: another row stops there and begins again
        if stop.box_pt[2] < end:
            after = [
                one.box_pt[0]
                for one in others
                if one.box_pt[0] >= stop.box_pt[2] and overlap_y(one.box_pt, stop.box_pt) > 0
            ]
            if after and min(after) > start:
                return False
    return True


def _one_line(pieces: Sequence[Line]) -> Line:
    text = " ".join(piece.text for piece in pieces)
    return pieces[0].model_copy(update={"text": text, "box_pt": union(piece.box_pt for piece in pieces)})


def _whole_captions(groups: Sequence[list[Line]], book: Profile) -> list[list[Line]]:
    """A caption whose label or title stands apart goes on below, where lines of its size follow closely."""
    groups = list(groups)
    for group in list(groups):
        start = caption_start(group[0].text) if group else None
        if start is None or not (start.certain or group[0].bold):
            continue
        last = group[-1]
        apart = (
            all(line.bold for line in group) or abs(last.size_pt - book.body_size_pt) > 0.05 * last.size_pt
        )
        for other in groups:
            if other is group or not other or caption_start(other[0].text) is not None:
                continue
            if not apart and abs(center_x(other[0].box_pt) - center_x(last.box_pt)) > 0.3 * last.size_pt:
                continue
            near = 0 < _pitch(last, other[0]) <= 1.6 * max(last.size_pt, other[0].size_pt)
            aligned = abs(other[0].box_pt[0] - min(line.box_pt[0] for line in group)) < 2 * last.size_pt
            aligned = aligned or abs(center_x(other[0].box_pt) - center_x(last.box_pt)) < last.size_pt
            if near and aligned and abs(last.size_pt - other[0].size_pt) <= 0.15 * last.size_pt:
                group += other
                other.clear()
                break
    return [group for group in groups if group]


def _line_above(ordered: Sequence[Line], below: int) -> int | None:
    """The nearest line above that covers some of the same width."""
    line = ordered[below]
    best, best_gap = None, 4.0 * line.size_pt
    for index in range(below - 1, max(-1, below - 5 * NEAR_LINES), -1):
        other = ordered[index]
        if line.box_pt[1] - other.box_pt[1] > 6 * line.size_pt + 40:
            break
        if overlap_x(line.box_pt, other.box_pt) < 0.3 * min(width(line.box_pt), width(other.box_pt)):
            continue
        distance = center_y(line.box_pt) - center_y(other.box_pt)
        if 0.45 * line.size_pt < distance < best_gap:
            best, best_gap = index, distance
    return best


def _pitches(ordered: Sequence[Line], slack: float) -> dict[float, float]:
    """The usual distance of baselines for each font size (rounded to a point) on the page."""
    distances: dict[float, list[float]] = defaultdict(list)
    for below, line in enumerate(ordered):
        above = _line_above(ordered, below)
        if above is not None and same_size(ordered[above].size_pt, line.size_pt, slack):
            distances[round(line.size_pt)].append(_pitch(ordered[above], line))
    pitches = {}
    for size, found in distances.items():
        close = [distance for distance in found if distance < 2.2 * max(size, 1)]
        if close:
            pitches[size] = Counter(round(distance * 2) / 2 for distance in close).most_common(1)[0][0]
    return pitches


def _pitch(above: Line, below: Line) -> float:
    """The distance of two lines, by their tops or their bottoms: an index or an exponent moves one of them."""
    return min(below.box_pt[1] - above.box_pt[1], below.box_pt[3] - above.box_pt[3])


def _is_heading_over(above: Line, below: Line) -> bool:
    """A bold line of its own over plain text, or the other way round; bold words in a paragraph are not."""
    if above.bold == below.bold:
        return False
    return width(above.box_pt) < 0.9 * width(below.box_pt) or bool(ENDS.search(above.text.rstrip()))


def _has_room(above: Line, below: Line) -> bool:
    """Whether the first word of a line would have stood on the one above: then a paragraph ended there."""
    word = len(below.text.split(" ", 1)[0]) + 1
    return above.box_pt[2] + word * width(below.box_pt) / max(len(below.text), 1) < below.box_pt[2]


def _is_indented(above: Line, below: Line) -> bool:
    return below.box_pt[0] > above.box_pt[0] + 0.7 * below.size_pt


def _steps_out(above: Line, below: Line) -> bool:
    """Within a paragraph only its second line may begin further left: after a list's item, prose begins anew."""
    centred = abs(center_x(above.box_pt) - center_x(below.box_pt)) < below.size_pt
    return below.box_pt[0] < above.box_pt[0] - 0.8 * below.size_pt and not centred


def _continues(above: Line, below: Line, pitch: dict[float, float], slack: float) -> bool:
    if not same_size(above.size_pt, below.size_pt, slack) or _is_heading_over(above, below):
        return False
    size = max(above.size_pt, below.size_pt)
    usual = min(pitch.get(round(below.size_pt), 1.3 * size), 2.2 * size)
    loose = 1.1 + 1.2 * slack  # heights that are guessed move the lines too
    if _pitch(above, below) > loose * max(usual, 1.05 * size):
        return False
    short = above.box_pt[2] < below.box_pt[2] - 0.15 * width(below.box_pt)
    hangs = below.box_pt[0] > above.box_pt[0] + 1.0
    ended = _BULLET.match(above.text) and (not hangs or _has_room(above, below))
    if _BULLET.match(below.text) or ended:
        return False
    if short and _is_indented(above, below):
        return False
    left = below.box_pt[0] - above.box_pt[0]
    right = below.box_pt[2] - above.box_pt[2]
    centred = abs(center_x(above.box_pt) - center_x(below.box_pt)) < size
    return abs(left) < 3 * size or abs(right) < size or centred


def _split_at_captions(group: list[Line], page: Page) -> list[list[Line]]:
    """A caption begins a block of its own, unless its line stands in the middle of a paragraph."""
    parts: list[list[Line]] = [[]]
    for line in group:
        if (parts[-1] and _starts_caption(parts[-1], line)) or (
            parts[-1] and _ends_caption(parts[-1], line, page)
        ):
            parts.append([])
        parts[-1].append(line)
    return parts


def _starts_caption(before: Sequence[Line], line: Line) -> bool:
    start = caption_start(line.text)
    if start is None or not start.certain:
        return False
    above = before[-1]
    right = max(other.box_pt[2] for other in before)
    ends = bool(ENDS.search(above.text.rstrip()))
    short = above.box_pt[2] < right - 2 * above.size_pt or len(before) == 1
    loose = len(before) >= 2 and (
        line.box_pt[3] - above.box_pt[3] > 1.1 * (above.box_pt[3] - before[-2].box_pt[3])
    )
    caption_above = caption_start(before[0].text) is not None
    return loose or (ends and (short or caption_above))


def _ends_caption(before: Sequence[Line], line: Line, page: Page) -> bool:
    """A caption in the body's own type ends with a short line after which an indented one follows."""
    start = caption_start(before[0].text)
    if start is None or not start.certain or len(before) < 2:
        return False
    above = before[-1]
    right = max(other.box_pt[2] for other in before)
    left = min(other.box_pt[0] for other in before[1:])
    short = above.box_pt[2] < right - 2 * above.size_pt and bool(ENDS.search(above.text.rstrip()))
    indented = line.box_pt[0] > left + 0.7 * line.size_pt
    return short and (indented or line.italic != above.italic)
