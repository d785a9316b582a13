"""Questions about plain shapes. Each `ask_` function draws a picture and makes one question."""

from pathloom.ingest.drawn import Deal, Drawn, Fields, Rng, options_around, sentences
from pathloom.phantom.shapes import (
    COLOURS,
    KINDS,
    SIZES,
    UNSEEN_KINDS,
    Scene,
    Shape,
    draw_scene,
    place,
)
from pathloom.schema import Region

MAX_COUNT = 6
_PLACES = tuple(
    f"{row} {column}" for row in ("upper", "middle", "lower") for column in ("left", "centre", "right")
)


def _observations(scene: Scene, size_px: int) -> list[str]:
    return [
        f"{shape.size.capitalize()} {shape.name} {place(shape.box_px, size_px)}" for shape in scene.shapes
    ]


def _found(scene: Scene, meant: list[Shape], size_px: int) -> list[str]:
    """Every shape; those that are meant with their number, so that each step looks at one shape alone."""
    told = []
    number = 0
    for shape, words in zip(scene.shapes, _observations(scene, size_px), strict=True):
        number += shape in meant
        told.append(f"{words}: {number}" if shape in meant else words)
    return told


def _different(rng: Rng, count: int) -> list[tuple[str, str]]:
    """(kind, colour) of shapes that share neither."""
    kinds, colours = rng.permutation(KINDS)[:count], rng.permutation(list(COLOURS))[:count]
    return [(str(kind), str(colour)) for kind, colour in zip(kinds, colours, strict=True)]


_SHAPE_ATTRIBUTES = ("colour", "place", "size", "kind")


def ask_shape(deal: Deal) -> tuple[Drawn, Fields]:
    """One attribute of one of one to three shapes; its kind names the shape, or its colour where the kind is asked."""
    names = _different(deal.rng, 1 + (deal.index // 4) % 3)
    scene = draw_scene(deal.seed(), size_px=deal.size_px, names=names)
    shape = scene.shapes[int(deal.rng.integers(len(scene.shapes)))]
    attribute = _SHAPE_ATTRIBUTES[deal.index % 4]
    answer, others = {
        "colour": (shape.colour, tuple(COLOURS)),
        "place": (place(shape.box_px, deal.size_px), _PLACES),
        "size": (shape.size, tuple(SIZES)),
        "kind": (shape.kind, KINDS),
    }[attribute]
    # shifted after each round, so that neither the number of shapes nor the wording goes with a letter
    position = deal.index // 4 + deal.index // 24
    return Drawn(scene.pixels_rgb), {
        "what": attribute,
        "other": f"{shape.colour} shape" if attribute == "kind" else shape.kind,
        "choices": options_around(answer, others, int(deal.rng.integers(3, 7)), position, deal.rng),
        "answer": answer,
        "finding": answer,
        "reasoning": sentences(*_observations(scene, deal.size_px), f"This is {answer}"),
    }


def ask_is_shape(deal: Deal) -> tuple[Drawn, Fields]:
    """One shape: is it this one? Both are named side by side, as what is to be compared should stand."""
    (kind, colour), (other_kind, other_colour) = _different(deal.rng, 2)
    scene = draw_scene(deal.seed(), size_px=deal.size_px, names=[(kind, colour)])
    wrong = (f"{other_colour} {kind}", f"{colour} {other_kind}")[(deal.index // 2) % 2]
    asked = f"{colour} {kind}" if deal.index % 2 else wrong
    return Drawn(scene.pixels_rgb), {
        "what": asked,
        "answer": "yes" if deal.index % 2 else "no",
        "finding": f"{colour} {kind}",
        "asked_finding": asked,
        "reasoning": sentences(
            *_observations(scene, deal.size_px), f"Asked is {asked}", f"This is {colour} {kind}"
        ),
    }


def _scene_with(deal: Deal, wanted: int, num_others: int) -> tuple[Scene, str, list[Shape]]:
    """A scene that holds `wanted` of what is asked for: its words and the shapes that they mean.

    Every other test picture shows kinds of shape that training never does; those are asked about by colour.
    """
    unseen = deal.test and deal.index % 2 == 1
    kinds = UNSEEN_KINDS if unseen else KINDS
    kind = str(deal.rng.choice(kinds))
    colour = str(deal.rng.choice(list(COLOURS)))
    # what is asked for: a colour, in half of the cases, a kind, or both
    by_kind, by_colour = ((False, True), (False, True), (True, False), (True, True))[
        0 if unseen else int(deal.rng.integers(4))
    ]
    names = [
        (
            kind if by_kind else str(deal.rng.choice(kinds)),
            colour if by_colour else str(deal.rng.choice(list(COLOURS))),
        )
        for _ in range(wanted)
    ]
    while len(names) < wanted + num_others:
        other = (str(deal.rng.choice(kinds)), str(deal.rng.choice(list(COLOURS))))
        if deal.rng.random() < 0.5 and by_kind and by_colour:  # half alike
            other = (kind, other[1]) if deal.rng.random() < 0.5 else (other[0], colour)
        if (by_kind and other[0] != kind) or (by_colour and other[1] != colour):
            names.append(other)
    scene = draw_scene(deal.seed(), size_px=deal.size_px, names=names)
    meant = [
        shape
        for shape in scene.shapes
        if (not by_kind or shape.kind == kind) and (not by_colour or shape.colour == colour)
    ]
    words = f"{colour} {kind}" if by_kind and by_colour else (kind if by_kind else f"{colour} shape")
    return scene, words, meant


def _plural(words: str) -> str:
    return f"{words}es" if words.endswith("cross") else f"{words}s"


def _kind_stratum(deal: Deal) -> tuple[str, ...]:
    return (f"shapes={'unseen' if deal.test and deal.index % 2 == 1 else 'seen'}",)


def ask_is_there(deal: Deal) -> tuple[Drawn, Fields]:
    """Two to four shapes whatever the answer, so that their number does not give it away."""
    wanted = int(deal.rng.integers(1, 3)) if (deal.index // 2) % 2 else 0
    scene, words, meant = _scene_with(deal, wanted, int(deal.rng.integers(2, 5)) - wanted)
    return Drawn(scene.pixels_rgb), {
        "what": words,
        "answer": "yes" if meant else "no",
        "reasoning": _counted(words, scene, meant, deal.size_px),
        "strata": _kind_stratum(deal),
    }


def ask_count(deal: Deal) -> tuple[Drawn, Fields]:
    wanted = (deal.index // 2) % (MAX_COUNT + 1)
    scene, words, meant = _scene_with(deal, wanted, int(deal.rng.integers(0, 4)))
    return Drawn(scene.pixels_rgb), {
        "what": _plural(words),
        "answer": str(len(meant)),
        "reasoning": _counted(words, scene, meant, deal.size_px),
        "strata": _kind_stratum(deal),
    }


def _counted(words: str, scene: Scene, meant: list[Shape], size_px: int) -> str:
    return sentences(*_found(scene, meant, size_px), f"Number of {_plural(words)}: {len(meant)}")


def _boxed(words: str, scene: Scene, meant: list[Shape], size_px: int) -> Fields:
    return {
        "what": words,
        "regions": tuple(Region(box_px=shape.box_px, label=f"{shape.size} {shape.name}") for shape in meant),
        "reasoning": sentences(*_found(scene, meant, size_px)),
    }


def ask_one_box(deal: Deal) -> tuple[Drawn, Fields]:
    """A picture with one shape and nothing else to find."""
    scene = draw_scene(deal.seed(), size_px=deal.size_px, names=_different(deal.rng, 1))
    return Drawn(scene.pixels_rgb), _boxed(scene.shapes[0].name, scene, list(scene.shapes), deal.size_px)


def ask_all_shapes(deal: Deal) -> tuple[Drawn, Fields]:
    """One to five shapes, alike or not; each box is labelled with size, colour, kind and place."""
    names = [
        (str(deal.rng.choice(KINDS)), str(deal.rng.choice(list(COLOURS)))) for _ in range(1 + deal.index % 5)
    ]
    scene = draw_scene(deal.seed(), size_px=deal.size_px, names=names)
    described = zip(scene.shapes, _observations(scene, deal.size_px), strict=True)
    regions = tuple(Region(box_px=shape.box_px, label=words.lower()) for shape, words in described)
    return Drawn(scene.pixels_rgb), {
        **_boxed("", scene, list(scene.shapes), deal.size_px),
        "regions": regions,
    }


def ask_boxes(deal: Deal) -> tuple[Drawn, Fields]:
    # shifted after each round, so that the number of boxes does not go with the wording
    wanted = 1 + (deal.index // 2 + deal.index // 8) % 4
    scene, words, meant = _scene_with(deal, wanted, int(deal.rng.integers(0, 3)))
    return Drawn(scene.pixels_rgb), {
        **_boxed(words, scene, meant, deal.size_px),
        "strata": _kind_stratum(deal),
    }


def ask_one_shape(deal: Deal) -> tuple[Drawn, Fields]:
    scene = draw_scene(deal.seed(), size_px=deal.size_px, names=_different(deal.rng, 1))
    return Drawn(scene.pixels_rgb), {"answer": sentences(*_observations(scene, deal.size_px))}


def ask_scene_caption(deal: Deal) -> tuple[Drawn, Fields]:
    scene = draw_scene(deal.seed(), size_px=deal.size_px, names=_different(deal.rng, 1 + deal.index % 4))
    listed = sentences(*_observations(scene, deal.size_px))
    return Drawn(scene.pixels_rgb), {"answer": f"{listed} The background is {scene.background}."}
