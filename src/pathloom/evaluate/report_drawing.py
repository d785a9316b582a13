"""What the report's page draws, from plain numbers and bytes: axes, curves, images, and numbers as text.

Nothing here knows a report; lengths are in the units of the SVG's own viewBox.
"""

import base64
import io
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL.Image import Resampling

from pathloom.images import BadImage, decode

IMAGE_SIDE_MAX_PX = 512
CURVE_POINTS_MAX = 600
DASH, MINUS = "\u2013", "\u2212"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Scale:
    """A straight axis from low to high, in the metric's unit."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @staticmethod
    def around(values: Iterable[float], unit: bool = False, steps: int = 4) -> "Scale":
        """An axis on round numbers that holds the finite values; with `unit` 0 to 1 where they allow it."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if unit and low >= 0 and high <= 1:
            return Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
        span = (high - low) or abs(high) or 1.0
        power = 10.0 ** math.floor(math.log10(span / steps))
        step = next(power * nice for nice in (1, 2, 2.5, 5, 10, 20) if span / (power * nice) <= steps)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(round(index * step, 12) for index in range(first, max(last, first + 1) + 1))
        return Scale(ticks[0], ticks[-1], ticks)

    def percent(self, value: float) -> float:
        """Where the value lies on the axis, 0 to 100, held inside it."""
        return round(min(max((value - self.low) / (self.high - self.low), 0.0), 1.0) * 100, 2)


@dataclass(frozen=True)
class Frame:
    """The outer size of a chart and the margins that its axis labels need."""

    width: float = 480
    height: float = 250
    left: float = 56
    right: float = 12
    top: float = 12
    bottom: float = 42


FRAME = Frame()
BOX_FRAME = Frame(width=960, height=340, bottom=48)


@dataclass(frozen=True)
class ChartLine:
    """One fold: the path through every value, the path of their moving mean, and where that mean ends."""

    raw: str
    mean: str
    last: float


@dataclass(frozen=True)
class Chart:
    """A drawn chart: ticks as (position, value) along each axis, and one line per fold."""

    x_ticks: tuple[tuple[float, float], ...]
    y_ticks: tuple[tuple[float, float], ...]
    lines: tuple[ChartLine, ...]


def draw_chart(folds: Sequence[tuple[Sequence[int], Sequence[float]]], frame: Frame = FRAME) -> Chart:
    """Draw (steps, values) per fold against one pair of axes; values that are not finite leave gaps."""
    across, down = frame.width - frame.left - frame.right, frame.height - frame.top - frame.bottom
    steps = [step for fold_steps, _ in folds for step in fold_steps] or [0]
    first, last = min(0, *steps), max(1, *steps)
    # The axis ends where the training ended, not at the next round number.
    ticks = tuple(tick for tick in Scale.around((first, last), steps=5).ticks if first <= tick <= last)
    x_scale = Scale(first, last, ticks)
    y_scale = Scale.around(value for _, values in folds for value in values)

    def x_at(step: float) -> float:
        return frame.left + across * x_scale.percent(step) / 100

    def y_at(value: float) -> float:
        return frame.top + down * (1 - y_scale.percent(value) / 100) if math.isfinite(value) else math.nan

    lines = []
    for fold_steps, values in folds:
        x = [x_at(step) for step in _thin(fold_steps)]
        raw = _thin(values)
        mean = _moving_mean(raw)
        paths = [_path(zip(x, map(y_at, heights), strict=True)) for heights in (raw, mean)]
        end = next((value for value in reversed(mean) if math.isfinite(value)), math.nan)
        lines.append(ChartLine(paths[0], paths[1], end))
    return Chart(
        tuple((x_at(tick), tick) for tick in x_scale.ticks),
        tuple((y_at(tick), tick) for tick in y_scale.ticks),
        tuple(lines),
    )


@dataclass(frozen=True)
class Box:
    """One drawn box: its centre and half its width, the five heights from the top one down, the runs as points."""

    x: float
    half: float
    top: float
    upper: float
    middle: float
    lower: float
    bottom: float
    points: tuple[tuple[float, float], ...]
    said: str


@dataclass(frozen=True)
class BoxChart:
    """A drawn box plot: one label a place, the boxes of each series, the chance line where there is one."""

    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, float], ...]
    series: tuple[tuple[str, tuple[Box, ...]], ...]
    chance: float | None


def draw_boxes(
    places: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float]]],
    chance: float | None = None,
    frame: Frame = BOX_FRAME,
) -> BoxChart:
    """Draw the finite values of each series at each place: box to the quartiles, whiskers to the ends, every point.

    Quartiles are interpolated between the sorted values, the ends among them (Hyndman and Fan's seventh definition).
    """
    across, down = frame.width - frame.left - frame.right, frame.height - frame.top - frame.bottom
    everything = [value for boxes in series.values() for values in boxes for value in values]
    scale = Scale.around([*everything, *([] if chance is None else [chance])])
    # four fifths of a place hold boxes, a fifth keeps the places apart
    slot = across / max(len(places), 1)
    step = min(0.8 * slot / max(len(series), 1), 46)

    def y_at(value: float) -> float:
        return round(frame.top + down * (1 - scale.percent(value) / 100), 2)

    drawn = []
    for number, (name, boxes) in enumerate(series.items()):
        shift = (number - (len(series) - 1) / 2) * step
        centres = [frame.left + slot * (place + 0.5) + shift for place in range(len(places))]
        drawn.append(
            (
                name,
                tuple(
                    _box(centre, 0.36 * step, finite, y_at, f"{name}, {place}")
                    for centre, place, values in zip(centres, places, boxes, strict=True)
                    if (finite := sorted(value for value in values if math.isfinite(value)))
                ),
            )
        )
    return BoxChart(
        tuple((round(frame.left + slot * (place + 0.5), 1), name) for place, name in enumerate(places)),
        tuple((y_at(tick), tick) for tick in scale.ticks),
        tuple(drawn),
        None if chance is None else y_at(chance),
    )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of at least one finite value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def _box(x: float, half: float, values: Sequence[float], y_at: Callable[[float], float], named: str) -> Box:
    """A box of sorted values; the points stand side by side in the order of their values."""
    lower, middle, upper = quartiles(values)
    spread = [0.0] if len(values) == 1 else [2 * at / (len(values) - 1) - 1 for at in range(len(values))]
    return Box(
        x=round(x, 1),
        half=round(half, 1),
        top=y_at(values[-1]),
        upper=y_at(upper),
        middle=y_at(middle),
        lower=y_at(lower),
        bottom=y_at(values[0]),
        points=tuple(
            (round(x + 0.7 * half * aside, 1), y_at(value))
            for aside, value in zip(spread, values, strict=True)
        ),
        said=f"{named}: median {format_number(middle)}, quartiles {format_number(lower)} and "
        f"{format_number(upper)}, from {format_number(values[0])} to {format_number(values[-1])}, "
        f"{len(values)} run{'s' if len(values) > 1 else ''}",
    )


def _path(points: Iterable[tuple[float, float]]) -> str:
    parts, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L" if math.isfinite(y) else "M"
    return "".join(parts)


def _thin(values: Sequence[float]) -> list[float]:
    """At most CURVE_POINTS_MAX means over neighbouring values, so that a long run stays a small page."""
    size = max(1, math.ceil(len(values) / CURVE_POINTS_MAX))
    return [_mean(values[start : start + size]) for start in range(0, len(values), size)]


def _moving_mean(values: Sequence[float]) -> list[float]:
    half = len(values) // 30
    return [_mean(values[max(0, at - half) : at + half + 1]) for at in range(len(values))]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def embed_image(data: bytes) -> tuple[str, int, int] | None:
    """(data URI of a PNG, width_px, height_px before shrinking), or None for bytes that are no good image."""
    try:
        pixels = decode(data, "example")
    except BadImage:
        return None
    width_px, height_px = pixels.size
    if max(pixels.size) > IMAGE_SIDE_MAX_PX or not data.startswith(PNG_SIGNATURE):
        pixels.thumbnail((IMAGE_SIDE_MAX_PX, IMAGE_SIDE_MAX_PX), Resampling.LANCZOS)
        buffer = io.BytesIO()
        pixels.save(buffer, "PNG", optimize=True)
        data = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii"), width_px, height_px


def format_number(value: float | None, signed: bool = False, ascii_only: bool = False) -> str:
    """Three decimals below ten, fewer above, a dash for what is missing or not finite; `signed` shows a +."""
    if value is None or not math.isfinite(value):
        return "-" if ascii_only else DASH
    size = abs(value)
    text = f"{size:.3f}" if size < 10 else f"{size:.1f}" if size < 1000 else f"{size:,.0f}"
    zero = not float(text.replace(",", ""))
    sign = "" if zero else "-" if value < 0 else "+" if signed else ""
    return (sign if ascii_only else sign.replace("-", MINUS)) + text


def format_fixed(value: float, digits: int, ascii_only: bool = False) -> str:
    """A number on so many digits after the point, a dash for what is not finite."""
    if not math.isfinite(value):
        return "-" if ascii_only else DASH
    text = f"{round(value, digits) + 0.0:.{digits}f}"
    return text if ascii_only else text.replace("-", MINUS)


def format_p(value: float | None, ascii_only: bool = False) -> str:
    """A p value on three decimals; one that would read as zero as an upper bound."""
    return "< 0.001" if value is not None and value < 0.0005 else format_number(value, ascii_only=ascii_only)


def format_tick(value: float) -> str:
    """A short axis label, thousands as k."""
    return (f"{value:g}" if abs(value) < 1e4 else f"{value / 1000:g}k").replace("-", MINUS)


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: 8.4 s, 12 min 04 s, 3 h 20 min."""
    if not math.isfinite(seconds):
        return DASH
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
