"""Which Samples a benchmark asks about, and what the controls change in them.

A control takes away what the right answer should depend on. A model that keeps its score did not look at it:
no_image        a plain grey picture of the same size. Leaving the picture out would change the prompt's form, and a
                model trained with pictures only would be measured on that instead;
                a slide becomes one without tiles;
wrong_image     the picture of another Sample that makes the answer wrong, a slide for a slide;
shuffled_options  the same options under other letters (choice) or in another order (label); a scale
                (ordinal) has one order only;
shuffled_routes   the same question, but a mixture of experts is told the scale and task of another one.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image as PILImage

from pathloom.benchmarks import DIMENSION, Benchmark
from pathloom.images import encode_png
from pathloom.models.experts_config import Route, route_of
from pathloom.schema import FOLD_PREFIX, TEST_SPLIT, Image, Sample
from pathloom.slides.features import NO_SLIDE
from pathloom.tasks.ordinal import ORDINAL

NO_CONTROL = "none"
SHUFFLED_ROUTES = "shuffled_routes"
GREY_LEVEL = 128


def is_held_out(sample: Sample) -> bool:
    """Whether some model is asked about the Sample without having learnt from it: a test, or a fold's turn as one."""
    return sample.split == TEST_SPLIT or sample.split.startswith(FOLD_PREFIX)


def held_out(samples: Iterable[Sample], benchmark: Benchmark, limit: int | None) -> list[Sample]:
    """The benchmark's Samples in a fixed order; with `limit`, that many spread evenly over them."""
    chosen = [sample for sample in samples if benchmark.asks(sample) and is_held_out(sample)]
    if limit is None or limit >= len(chosen):
        return chosen
    return [chosen[index * len(chosen) // limit] for index in range(limit)]


def apply_control(samples: Sequence[Sample], control: str, seed: int) -> list[Sample]:
    """The Samples as the control asks them; those it does not apply to are left out. Ids stay the same."""
    if control == NO_CONTROL:
        return list(samples)
    if control == "no_image":
        return [_without_image(sample) for sample in samples if sample.images]
    if control == "wrong_image":
        return _with_wrong_images([sample for sample in samples if sample.images], seed)
    if control == "shuffled_options":
        return [
            _with_shuffled_options(sample, seed)
            for sample in samples
            if len(sample.choices) > 1 and sample.task != ORDINAL.name
        ]
    if control == SHUFFLED_ROUTES:
        return list(samples)  # `wrong_route` says what is told beside the question
    raise ValueError(f"no control {control!r}")


def wrong_route(sample: Sample, routes: Mapping[Route, int], seed: int) -> Route | None:
    """The route of another row: of another scale and another task where there is one, else of another of either.

    `routes` counts the rows of each route; one is drawn by these counts. None where all rows have the Sample's own.
    """
    own = route_of(sample)
    others = sorted(route for route in routes if route != own)
    others = [route for route in others if route.scale != own.scale and route.task != own.task] or others
    drawn = int(_rank(sample.id, seed), 16) % max(sum(routes[route] for route in others), 1)
    for route in others:
        drawn -= routes[route]
        if drawn < 0:
            return route
    return None


def _without_image(sample: Sample) -> Sample:
    return sample.model_copy(update={"images": tuple(_nothing(image) for image in sample.images)})


def _nothing(image: Image) -> Image:
    """A picture of the same size, or a slide, in which there is nothing to see."""
    if image.slide is not None:
        return image.model_copy(update={"path": f"empty:{image.path}", "slide": NO_SLIDE})
    pixels = PILImage.new("RGB", (image.width_px, image.height_px), (GREY_LEVEL,) * 3)
    return image.model_copy(update={"path": f"grey:{image.path}", "data": encode_png(pixels)})


def _with_wrong_images(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Each Sample with the picture of the next one, in a seeded order, for which its answer is not right."""
    order = sorted(range(len(samples)), key=lambda index: _rank(samples[index].id, seed))
    swapped: dict[int, Sample] = {}
    for position, index in enumerate(order):
        sample = samples[index]
        followers = (samples[order[(position + step) % len(order)]] for step in range(1, len(order)))
        other = next((follower for follower in followers if _answer_is_wrong_for(sample, follower)), None)
        if other is not None:
            swapped[index] = sample.model_copy(update={"images": other.images})
    return [swapped[index] for index in sorted(swapped)]


def _answer_is_wrong_for(sample: Sample, other: Sample) -> bool:
    """Whether the Sample's answer is wrong for the other's picture: what a yes/no question asks goes along with it.

    One picture may carry several questions; its own picture is never a wrong one.
    """
    if {_shown(image) for image in sample.images} & {_shown(image) for image in other.images}:
        return False
    if sample.scale != other.scale:
        return False  # a picture of a region is no wrong slide
    if _dimensions(sample) != _dimensions(other):
        return False  # it may look the same in what the question is about
    if sample.asked_finding is not None:
        return (other.finding == sample.asked_finding) != (sample.finding == sample.asked_finding)
    if sample.task in ("boxes", "mask"):
        return other.regions != sample.regions
    return other.answer != sample.answer


def _shown(image: Image) -> tuple[str, str | None]:
    """What tells one picture or slide from another; files of slides in several folders may have one name."""
    return (image.path if image.slide is None else "", image.slide)


def _dimensions(sample: Sample) -> set[str]:
    return {stratum for stratum in sample.strata if stratum.startswith(DIMENSION)}


def _with_shuffled_options(sample: Sample, seed: int) -> Sample:
    """Options turned round by a seeded number of places: every option gets another letter."""
    turn = 1 + int(_rank(sample.id, seed)[:8], 16) % (len(sample.choices) - 1)
    return sample.model_copy(update={"choices": (*sample.choices[turn:], *sample.choices[:turn])})


def _rank(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()
