"""Tickets: small pictures that stand for slides where only pictures can pass, drawn here and read back in the tower.

A ticket is a square of exactly side x side visual tokens, 2 x 2 patches each. Each patch is of one colour, and each of
its three channels is a bit: empty or full. Most bits are a fixed mark, the others the slide's number. Nothing that was
photographed has patches of one colour, full or empty in each channel, on the very grid of the patches, with the mark.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor

from pathloom.images import load_pixels
from pathloom.schema import Image
from pathloom.slides.features import NO_SLIDE
from pathloom.stage import UserError

MERGE = 2
"""Patches along each edge of a visual token, in both Qwen-VL families."""
NUMBER_BITS = 40
"""A shelf of 10,000 slides holds two of the same number in one of 20,000 cases; opening it then fails."""
LEAST_MARK_BITS = 24
"""What is left of the 48 bits of side 2, whose numbers then have 24 bits as well."""


@dataclass(frozen=True)
class TicketForm:
    """How large a model's tickets are: `side` tokens along an edge, each `token_px` pixels wide."""

    side: int
    token_px: int


def slide_number(slide: str, side: int) -> int:
    """The slide's number on tickets of that side: from 1, a hash of its id; 0 is the slide without tiles."""
    if slide == NO_SLIDE:
        return 0
    digest = int.from_bytes(hashlib.sha256(slide.encode()).digest(), "big")
    return digest % (2 ** _number_bits(side) - 1) + 1


def slide_numbers(slides: Iterable[str], side: int) -> dict[int, str]:
    """Number -> slide. Raises UserError where two slides have the same."""
    numbers: dict[int, str] = {}
    for slide in slides:
        number = slide_number(slide, side)
        if numbers.setdefault(number, slide) != slide:
            raise UserError(
                f"slides {numbers[number]} and {slide} have the same number on tickets of side {side}; rename one"
                + (", or give slide_tokens a larger side" if _number_bits(side) < NUMBER_BITS else "")
            )
    return numbers


def draw_ticket(slide: str, form: TicketForm) -> PILImage.Image:
    """The picture of a slide's number, side x token_px pixels along each edge."""
    side, number = form.side, slide_number(slide, form.side)
    bits = _mark(side).copy()
    bits[-_number_bits(side) :] = [number >> place & 1 for place in reversed(range(_number_bits(side)))]
    # rows of patches come token by token
    patches = bits.reshape(side, side, MERGE, MERGE, 3).transpose(0, 2, 1, 3, 4)
    colours = patches.reshape(side * MERGE, side * MERGE, 3) * np.uint8(255)
    patch_px = form.token_px // MERGE
    return PILImage.fromarray(colours.repeat(patch_px, axis=0).repeat(patch_px, axis=1))


def read_tickets(pixels: Tensor, grids: Sequence[Sequence[int]], side: int) -> list[int | None]:
    """The number on each picture that is a ticket, None for the others.

    `pixels` [patches of all pictures, 3 x frames x patch x patch] are normalised, each channel by numbers of its own,
    and may be rounded to any type; `grids` are the pictures' frames, rows and columns of patches.
    """
    found: list[int | None] = [None] * len(grids)
    start = 0
    for place, (frames, rows, columns) in enumerate(grids):
        stop = start + frames * rows * columns
        if (frames, rows, columns) == (1, side * MERGE, side * MERGE):
            found[place] = _read_one(pixels[start:stop], side)
        start = stop
    return found


def _read_one(pixels: Tensor, side: int) -> int | None:
    values = pixels.detach().reshape(len(pixels), 3, -1)
    if not bool((values == values[..., :1]).all()):
        return None
    given = values[..., 0].float().cpu().numpy()  # [patches, 3]
    num_marked = len(given) * 3 - _number_bits(side)
    mark = _mark(side)[:num_marked].astype(bool)
    channels = np.arange(len(given) * 3) % 3
    flat = given.reshape(-1)
    full, empty = np.empty(3), np.empty(3)
    for channel in range(3):
        of_channel = channels[:num_marked] == channel
        full[channel] = flat[:num_marked][of_channel & mark][0]
        empty[channel] = flat[:num_marked][of_channel & ~mark][0]
    bits = flat == full[channels]
    if not ((full > empty).all() and (bits | (flat == empty[channels])).all()):
        return None
    if not np.array_equal(bits[:num_marked], mark):
        return None
    return int("".join("1" if bit else "0" for bit in bits[num_marked:]), 2)


def ticket_form(model: Any, processor: Any) -> TicketForm | None:
    """The form of the model's tickets; None for a model that reads no slides.

    Raises UserError where the processor would resize them.
    """
    given = getattr(model.config, "slide_tokens", None)
    if given is None:
        return None
    images = processor.image_processor
    form = TicketForm(given["side"], images.patch_size * images.merge_size)
    area_px, size = (form.side * form.token_px) ** 2, images.size
    if area_px > size["longest_edge"]:
        raise UserError(
            f"max_pixels: {size['longest_edge']} is less than the {area_px} pixels that {form.side} x {form.side} "
            "tokens of a slide stand for; raise max_pixels or give slide_tokens a smaller side"
        )
    if area_px < size["shortest_edge"]:
        raise UserError(
            f"slide_tokens.side: the processor makes pictures under {size['shortest_edge']} pixels larger (its "
            f"min_pixels), and {form.side} x {form.side} tokens of a slide stand for {area_px}; give a larger side"
        )
    return form


def load_picture(image: Image, form: TicketForm | None) -> PILImage.Image:
    """What a model is shown for an image: its pixels, or the ticket of a slide. Raises UserError, BadImage."""
    if image.slide is None:
        return load_pixels(image)
    if form is None:
        raise UserError(
            f"{image.path}: a whole slide, and this model reads none; train it with slides and slide_tokens first"
        )
    return draw_ticket(image.slide, form)


def picture_loader(model: Any, processor: Any) -> Callable[[Image], PILImage.Image]:
    """`load_picture` in the form of the model's tickets. Raises UserError as `ticket_form` does."""
    form = ticket_form(model, processor)
    return lambda image: load_picture(image, form)


def _number_bits(side: int) -> int:
    return min(NUMBER_BITS, 3 * (side * MERGE) ** 2 - LEAST_MARK_BITS)


@cache
def _mark(side: int) -> NDArray[np.uint8]:
    """The bits of every ticket of that side, of which the last ones give way to the number: hashes of a phrase."""
    num_bits = 3 * (side * MERGE) ** 2
    hashes = [
        hashlib.sha256(f"the ticket of a slide {part}".encode()).digest()
        for part in range(-(-num_bits // 256))
    ]
    bits = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8))[:num_bits]
    bits.setflags(write=False)
    return bits
