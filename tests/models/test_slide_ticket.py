"""Tickets come back from both processors, in any precision, and nothing else is taken for one."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from tests.fixtures import FAMILIES, PRESET_OF, picture

from pathloom.images import load_pixels
from pathloom.models.load import load_model
from pathloom.models.presets import find_preset
from pathloom.models.slide_ticket import (
    LEAST_MARK_BITS,
    NUMBER_BITS,
    TicketForm,
    _mark,
    _number_bits,
    draw_ticket,
    read_tickets,
    slide_number,
    slide_numbers,
    ticket_form,
)
from pathloom.slides.features import NO_SLIDE
from pathloom.stage import UserError
from pathloom.store import read_samples

SIDES = (2, 3, 4, 8)
LARGE_PX = 512


@pytest.fixture(scope="module")
def image_processors(model_folders) -> dict[str, Any]:
    """Family -> its image processor, which leaves pictures up to 512 x 512 as large as they are."""
    found = {}
    for family in FAMILIES:
        found[family] = load_model(str(model_folders[family]))[1].image_processor
        found[family].size["longest_edge"] = LARGE_PX**2
    return found


def form_of(family: str, side: int) -> TicketForm:
    return TicketForm(side, find_preset(PRESET_OF[family]).patch_px * 2)


def read(images: Any, pictures: list[PILImage.Image], side: int, dtype: torch.dtype) -> list[int | None]:
    batch = images(images=pictures, return_tensors="pt")
    return read_tickets(batch["pixel_values"].to(dtype), batch["image_grid_thw"].tolist(), side)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tickets_among_pictures_are_read_in_their_order(image_processors, family, side, dtype):
    form = form_of(family, side)
    edge_px = side * form.token_px
    slides = ["TCGA-A1", "a slide", NO_SLIDE]
    tickets = [draw_ticket(slide, form) for slide in slides]
    first, second, empty = (slide_number(slide, side) for slide in slides)
    pictures = [tickets[0], picture(0, edge_px, edge_px), tickets[1], picture(1, 100, 60), tickets[2]]

    assert all(ticket.size == (edge_px, edge_px) for ticket in tickets)
    assert read(image_processors[family], pictures, side, dtype) == [first, None, second, None, empty]
    assert empty == 0


def drawn_bits(bits: np.ndarray, side: int, token_px: int) -> PILImage.Image:
    """A picture of patches that are full or empty in each channel: all that a ticket is but for the mark."""
    blocks = bits.reshape(side * 2, side * 2, 3).astype(np.uint8) * 255
    return PILImage.fromarray(blocks.repeat(token_px // 2, axis=0).repeat(token_px // 2, axis=1))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_other_picture_is_taken_for_a_ticket(image_processors, family, phantom_folder):
    side = 2  # the fewest bits
    form = form_of(family, side)
    edge_px = side * form.token_px
    rng = np.random.default_rng(0)
    shape = (edge_px, edge_px)
    flat = [PILImage.new("RGB", shape, colour) for colour in ("black", "white", "red", "grey", "magenta")]
    noise = [picture(seed, *shape) for seed in range(100)]
    two_colours = [
        PILImage.fromarray(np.repeat(rng.integers(0, 2, (*shape, 1), np.uint8) * 255, 3, axis=2))
        for _ in range(200)
    ]
    patches = [drawn_bits(rng.integers(0, 2, (side * 2) ** 2 * 3), side, form.token_px) for _ in range(500)]
    black_and_white = [
        drawn_bits(np.repeat(rng.integers(0, 2, (side * 2) ** 2), 3), side, form.token_px) for _ in range(200)
    ]
    phantoms = [
        load_pixels(image).resize(shape) for sample in read_samples(phantom_folder) for image in sample.images
    ]
    almost = np.array(draw_ticket("one", form))
    almost[0, 0, 0] ^= 1
    turned = [
        draw_ticket("one", form).transpose(PILImage.Transpose(turn)) for turn in range(7)
    ]  # all flips and turns
    other_side = [draw_ticket("one", form_of(family, 3))]
    pictures = [
        *flat,
        *noise,
        *two_colours,
        *patches,
        *black_and_white,
        *phantoms,
        PILImage.fromarray(almost),
        PILImage.fromarray(255 - np.array(draw_ticket("one", form))),
        *turned,
        *other_side,
    ]

    assert set(read(image_processors[family], pictures, side, torch.float32)) == {None}


@pytest.mark.parametrize("side", SIDES)
def test_a_mark_has_both_bits_in_each_channel(side):
    num_marked = 3 * (2 * side) ** 2 - _number_bits(side)
    marked = _mark(side)[:num_marked]

    assert num_marked >= LEAST_MARK_BITS
    for channel in range(3):
        assert set(marked[channel::3]) == {0, 1}


def test_numbers_have_forty_bits_where_there_is_room():
    assert [_number_bits(side) for side in SIDES] == [24, NUMBER_BITS, NUMBER_BITS, NUMBER_BITS]
    numbers = slide_numbers((f"slide {index}" for index in range(10_000)), 4)
    assert len(numbers) == 10_000
    assert all(0 < number < 2**NUMBER_BITS for number in numbers)


def test_two_slides_of_one_number_are_told_apart_from_none():
    with pytest.raises(UserError, match=r"same number.*larger side"):
        slide_numbers((f"slide {index}" for index in range(20_000)), 2)  # 24 bits: some two meet


@pytest.mark.parametrize("family", FAMILIES)
def test_a_processor_that_would_resize_tickets_is_refused(model_folders, family):
    model, processor = load_model(str(model_folders[family]))
    size = processor.image_processor.size
    assert ticket_form(model, processor) is None  # it reads no slides
    model.config.slide_tokens = {"side": 4}

    size["longest_edge"] = 4095
    with pytest.raises(UserError, match="max_pixels"):
        ticket_form(model, processor)
    size["longest_edge"], size["shortest_edge"] = (
        LARGE_PX**2,
        256**2,
    )  # as Qwen3-VL's published processors have
    with pytest.raises(UserError, match=r"slide_tokens\.side"):
        ticket_form(model, processor)
    model.config.slide_tokens = {"side": 10}
    form = ticket_form(model, processor)
    assert form == form_of(family, 10)
