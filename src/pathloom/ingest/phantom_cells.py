"""Question `cell` of source `phantom`: one framed cervical cell among its neighbours, its class and nine attributes."""

import numpy as np
from PIL import Image as PILImage

from pathloom.attributes import load_schema
from pathloom.ingest.anchor import mark_anchor
from pathloom.ingest.drawn import Deal, Drawn, Fields, Question
from pathloom.phantom.cell import BETHESDA, draw_cell
from pathloom.schema import Attribute, Region

SCHEMA = "cervical_cell"


def _cell(deal: Deal) -> tuple[Drawn, Fields]:
    """Classes are dealt evenly. The truth stands in `attributes`, so `context` stays empty."""
    cell = draw_cell(deal.seed(), size_px=deal.size_px, bethesda=BETHESDA[deal.index % len(BETHESDA)])
    x1, y1, x2, y2 = (float(edge) for edge in cell.cell_box_px)
    marked = mark_anchor(PILImage.fromarray(cell.pixels_rgb), (x1, y1, x2, y2))
    attributes = tuple(
        Attribute(name=name, value=value, resolver="truth") for name, value in cell.attributes.items()
    )
    return Drawn(np.asarray(marked), cell.mpp), {
        "answer": load_schema(SCHEMA).describe(cell.attributes),
        "regions": (Region(box_px=(x1, y1, x2, y2), label="cell"),),
        "finding": cell.bethesda,
        "attributes": attributes,
        "subfield": "cytology",
        "strata": (f"profile={'broken' if cell.broken else 'kept'}",),
    }


CELL_QUESTIONS: tuple[Question, ...] = (
    Question(
        "cell",
        "caption",
        (
            "Describe the cell in the box.",
            "What does the cell in the box show?",
            "Describe what the box shows.",
            "What can be seen of the cell in the box?",
        ),
        ("Describe what can be seen in the box.", "What does the box show?"),
        _cell,
    ),
)
