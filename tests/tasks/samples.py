"""One ordinary Sample of every task, and a wrong answer to each."""

from typing import Any

import numpy as np
from PIL import Image as PILImage

from pathloom.images import encode_png
from pathloom.masks import region_of
from pathloom.schema import Box, Image, Origin, Region, Sample, Turn

WIDTH_PX, HEIGHT_PX = 200, 100
TRUE_BOXES: tuple[Box, ...] = ((20.0, 10.0, 80.0, 60.0), (120.0, 30.0, 180.0, 90.0))


def things() -> np.ndarray:
    """Masks [thing, height, width] of ellipses that touch the TRUE_BOXES."""
    down, across = np.mgrid[:HEIGHT_PX, :WIDTH_PX] + 0.5
    return np.stack(
        [
            ((across - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((down - (y1 + y2) / 2) / (y2 - y1)) ** 2 <= 0.25
            for x1, y1, x2, y2 in TRUE_BOXES
        ]
    )


def _drawn_picture() -> Image:
    """Dark ellipses on white."""
    pixels = np.where(np.expand_dims(things().any(axis=0), 2), (90, 60, 140), (255, 255, 255)).astype(
        np.uint8
    )
    data = encode_png(PILImage.fromarray(pixels))
    return Image(path="drawn.png", data=data, width_px=WIDTH_PX, height_px=HEIGHT_PX)


_FIELDS: dict[str, dict[str, Any]] = {
    "choice": {"choices": ("fibrosis", "necrosis", "mitosis", "apoptosis"), "answer": "necrosis"},
    "yes_no": {"answer": "yes"},
    "label": {"choices": ("hsil", "lsil", "normal"), "answer": "lsil"},
    "ordinal": {"choices": ("absent", "focal", "moderate", "diffuse"), "answer": "diffuse"},
    "count": {"answer": "7"},
    "short_answer": {"answer": "clear cell carcinoma"},
    "caption": {"answer": "Glands with cribriform growth in a fibrous stroma."},
    "report": {"answer": "Glands with cribriform growth in a fibrous stroma. Impression: carcinoma in situ."},
    "dialogue": {
        "earlier": (Turn(question="Which organ is this?", answer="The breast."),),
        "answer": "Cribriform growth in a duct.",
    },
    "boxes": {"regions": tuple(Region(box_px=box) for box in TRUE_BOXES)},
    "mask": {"images": (_drawn_picture(),), "regions": tuple(map(region_of, things()))},
}

WRONG_ANSWERS: dict[str, tuple[str, ...]] = {
    "choice": ("A", "C", "D", "fibrosis", "mitosis", "D. apoptosis"),
    "yes_no": ("no", "No."),
    "label": ("hsil", "normal"),
    "ordinal": ("absent", "Absent.", "marked"),
    "count": ("0", "6", "8", "70"),
    "short_answer": ("melanoma", "clear cell", "carcinoma"),
    "caption": ("melanoma", "bone marrow smear"),
    "report": ("melanoma", "bone marrow smear"),
    "dialogue": ("melanoma", "bone marrow smear"),
    "boxes": ("[]", "[[900,900,990,990]]"),
    "mask": ("[]", "[[900,900,990,990]]"),
}


def make_sample(task: str, *, name: str = "s1", group: str = "g1", **fields: Any) -> Sample:
    """The ordinary Sample of `task` with `fields` replaced."""
    picture = Image(path="picture.png", width_px=WIDTH_PX, height_px=HEIGHT_PX)
    values: dict[str, Any] = {
        "id": name,
        "task": task,
        "split": "test",
        "images": (picture,),
        "question": "What is shown?",
        "origin": Origin(source="drawn", source_id=name, licence="CC0-1.0", group=group),
    }
    return Sample(**{**values, **_FIELDS[task], **fields})
