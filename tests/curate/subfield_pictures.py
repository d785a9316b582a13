"""Real pictures of the example data with their sub-field, labelled by eye; read by test_subfield_real.py.

Each has a group (patient, slide, figure, or the whole data set where no better is known) and a data set. Large fields
are cut into crops of one group. Left out: what shows no tissue, what the eye cannot place, electron microscopy (one
panel) and clinical images (one panel), which one group each cannot test. None shows gross specimens or FISH.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage

LARGEST_SIDE_PX = 512

Fraction = tuple[float, float, float, float]
WHOLE: Fraction = (0, 0, 1, 1)


@dataclass(frozen=True)
class Labelled:
    """One picture; a group never stands on both sides of a split."""

    name: str
    subfield: str
    dataset: str
    group: str
    pixels: PILImage.Image


# Parts of textbook figures, looked at one by one: file, sub-field, x1 y1 x2 y2 as fractions of the figure. The stain of
# 410 is silver (its caption: reticular fibres), that of 415 a blue one for nerve cells (not named there).
ANATOMY: tuple[tuple[str, str, Fraction], ...] = (
    ("m46049/media/408_Connective_Tissue", "drawing", (0.13, 0, 0.485, 1)),
    ("m46049/media/408_Connective_Tissue", "histopathology", (0.505, 0, 0.92, 0.97)),
    ("m46049/media/409_Adipose_Tissue", "drawing", (0, 0, 0.385, 1)),
    ("m46049/media/409_Adipose_Tissue", "histopathology", (0.51, 0, 0.995, 0.99)),
    ("m46049/media/410_Reticular_Tissue", "drawing", (0, 0, 0.38, 1)),
    ("m46049/media/410_Reticular_Tissue", "special stain", (0.58, 0, 1, 1)),
    ("m46049/media/411_Reg_Dense-Irregular_Dense", "drawing", (0, 0.08, 0.25, 0.43)),
    ("m46049/media/411_Reg_Dense-Irregular_Dense", "drawing", (0, 0.585, 0.25, 0.94)),
    ("m46049/media/411_Reg_Dense-Irregular_Dense", "histopathology", (0.53, 0.01, 0.99, 0.43)),
    ("m46049/media/412_Types_of_Cartilage-new", "drawing", (0, 0.01, 0.38, 0.32)),
    ("m46049/media/412_Types_of_Cartilage-new", "drawing", (0, 0.345, 0.38, 0.65)),
    ("m46049/media/412_Types_of_Cartilage-new", "drawing", (0, 0.68, 0.38, 0.99)),
    ("m46049/media/412_Types_of_Cartilage-new", "histopathology", (0.62, 0.01, 0.99, 0.32)),
    ("m46049/media/412_Types_of_Cartilage-new", "histopathology", (0.62, 0.345, 0.99, 0.65)),
    ("m46049/media/424_Blood_A_Fluid_Connective_Tissue-new", "cytology", (0, 0, 0.6, 1)),
    ("m46057/media/416_Nervous_Tissue-new", "drawing", (0, 0.1, 0.42, 1)),
    ("m46057/media/416_Nervous_Tissue-new", "histopathology", (0.445, 0.1, 0.99, 0.99)),
    ("m46057/media/415_Neuron", "special stain", (0.505, 0.01, 0.96, 0.49)),
    ("m46057/media/415_Neuron", "drawing", (0, 0.51, 1, 1)),
    ("m46684/media/1818_The_Adrenal_Glands", "drawing", (0, 0.25, 0.28, 1)),
    ("m46684/media/1818_The_Adrenal_Glands", "histopathology", (0.29, 0.1, 0.52, 0.9)),
)
MICROBIOLOGY: tuple[tuple[str, str, Fraction], ...] = (
    ("Acidfast", "special stain", (0, 0, 1, 0.9)),
    ("Endospores", "special stain", WHOLE),
    ("FlagStain", "special stain", WHOLE),
    ("Gramstain", "special stain", WHOLE),
    ("StaphGram", "special stain", WHOLE),
    ("CapsuStain", "special stain", (0, 0, 0.49, 0.8)),
    ("CapsuStain", "special stain", (0.56, 0, 1, 0.8)),
    ("Posnegstai", "special stain", (0, 0, 0.425, 0.86)),
    ("Posnegstai", "special stain", (0.487, 0, 0.7, 0.86)),
    ("Posnegstai", "special stain", (0.762, 0, 1, 0.86)),
    ("Syphilis", "special stain", (0.318, 0, 0.632, 0.86)),
    ("GramProc", "drawing", WHOLE),
    ("IndIrectFl", "drawing", WHOLE),
    ("StaintablA", "drawing", WHOLE),
    ("StaintablB", "drawing", WHOLE),
)
# Page -> boxes in pixels of the page. Tables and plots are drawings; two pages show immunofluorescence: tissue with
# DAPI and antibodies (eight panels), and nuclear pores by STED (one field, cut in four).
_PANELS_X = ((67, 179), (190, 301), (312, 423), (434, 545))
PAGES: dict[str, tuple[str, tuple[tuple[int, int, int, int], ...]]] = {
    "PMC3777717_00006": ("drawing", ((82, 53, 504, 328),)),
    "PMC3863500_00003": ("drawing", ((51, 90, 549, 579),)),
    "PMC3976938_00002": ("drawing", ((53, 75, 286, 251), (51, 337, 291, 477), (309, 90, 549, 190))),
    "PMC3576793_00004": ("drawing", ((51, 101, 549, 278),)),
    "PMC4972521_00010": ("drawing", ((103, 94, 501, 649),)),
    "PMC4760359_00006": ("drawing", ((56, 78, 551, 432),)),
    "PMC3654277_00006": (
        "immunofluorescence",
        tuple((x1, y1, x2, y2) for y1, y2 in ((83, 172), (182, 270)) for x1, x2 in _PANELS_X),
    ),
    "PMC4527132_00004": (
        "immunofluorescence",
        tuple((x, y, x + 160, y + 138) for y in (286, 426) for x in (144, 306)),
    ),
}
NO_TISSUE = ("no-tissue", "almost-white", "liver-level2-38626", "kidney-ihc-level0-350")


def labelled_pictures(root: Path) -> Iterator[Labelled]:
    """All pictures of the experiment in a fixed order, at most 512 px a side."""
    for one in _all(root):
        one.pixels.thumbnail((LARGEST_SIDE_PX, LARGEST_SIDE_PX), PILImage.Resampling.LANCZOS)
        yield one


def _all(root: Path) -> Iterator[Labelled]:
    yield from _lung(root / "tiles")
    yield from _tissue(root)
    yield from _cells(root / "cytology")
    yield from _slides(root / "slides")
    yield from _documents(root / "documents")


def _lung(tiles: Path) -> Iterator[Labelled]:
    with (tiles / "lc25000_lung" / "near_duplicate_groups.csv").open(encoding="utf-8") as file:
        groups = {
            row["file"]: f"{row['class']} {row['original_tile_cluster']}" for row in csv.DictReader(file)
        }
    for path in sorted((tiles / "lc25000_lung" / "tiles").glob("*/*.jp*g")):
        yield _file(path, "histopathology", "lc25000_lung", f"lc25000 {groups[path.name]}")
    for path in sorted((tiles / "tcga_luad_lusc" / "train").glob("*/*.jpg")):
        slide = f"tcga {path.parent.name} {path.name.split('_')[0]}"
        yield _file(path, "histopathology", "tcga_luad_lusc", slide)
    for path in sorted((tiles / "breast_idc").glob("14082/*/*.png")):
        yield _file(path, "histopathology", "breast_idc", "breast_idc")


def _tissue(root: Path) -> Iterator[Labelled]:
    for path in sorted((root / "tiles" / "histolab_quality").glob("*.png")):
        if not path.name.startswith(NO_TISSUE):
            name = "ihc" if "ihc" in path.name else "histopathology"
            yield _file(path, name, "histolab", f"histolab {name}")
    single = root / "tiles" / "single_images"
    for which in ("source", "target"):
        yield _file(single / f"torchstain_{which}.png", "histopathology", "torchstain", f"torchstain {which}")
    yield from _crops(_open(single / "skimage_ihc.png"), 256, "ihc", "skimage_ihc", "skimage_ihc")
    for path in sorted((root / "regions" / "monuseg").glob("*.tif")):
        yield from _crops(_open(path), 500, "histopathology", "monuseg", path.name)
    for path in sorted((root / "regions" / "gleason" / "img").glob("*.jpg")):
        yield from _crops(_open(path), 600, "histopathology", "gleason", "gleason")
    for path in sorted((root / "regions" / "dsb2018").glob("*/images/*.png")):
        yield _file(
            path, "histopathology", "dsb2018", "dsb2018"
        )  # stained sections; the patients are unknown


def _cells(cytology: Path) -> Iterator[Labelled]:
    for path in sorted((cytology / "herlev" / "cells").glob("*/*.jpg")):
        yield _file(path, "cytology", "herlev", f"herlev {path.name.split('-')[0]}")
    for path in sorted((cytology / "bccd" / "images").glob("*.jpg")):
        yield _file(path, "cytology", "bccd", "bccd")
    for path in sorted((cytology / "cervical_lbc").glob("*/*/*.jpg")):
        yield _file(path, "cytology", "cervical_lbc", f"cervical_lbc {path.parts[-3]}")


def _slides(slides: Path) -> Iterator[Labelled]:
    detail = _jpeg_tiff(slides / "ometiff_he_ki67" / "images_OS-1-detail.ome.tif")
    yield from _crops(detail, 550, "histopathology", "ometiff", "OS-1")
    for name, side_px in (("ndpi", 550), ("vsi", 360)):  # one section on two scanners: one group
        field = _jpeg_tiff(slides / "ometiff_he_ki67" / f"images_OS-2-{name}.ome.tif")
        yield from _crops(field, side_px, "ihc", "ometiff", "OS-2")
    aperio = _jpeg_tiff(slides / "aperio_cmu1" / "CMU-1-Small-Region.svs")
    yield from _crops(aperio, 500, "histopathology", "aperio_cmu1", "CMU-1", min_spread=20)
    dapi = _open(next((slides / "hamamatsu_dapi").glob("*.ndpi")))
    yield from _crops(dapi, 800, "immunofluorescence", "hamamatsu_dapi", "hamamatsu_dapi", min_spread=3)


def _documents(documents: Path) -> Iterator[Labelled]:
    for name, subfield, part in ANATOMY:
        path = documents / "openstax" / f"anatomy-physiology_{name}.jpg"
        yield _part(path, subfield, "openstax anatomy", part)
    for name, subfield, part in MICROBIOLOGY:
        media = documents / "openstax" / "microbiology_m58788" / "media"
        yield _part(media / f"OSC_Microbio_02_04_{name}.jpg", subfield, "openstax microbiology", part)
    for page, (subfield, boxes) in PAGES.items():
        pixels = _open(documents / "publaynet" / f"{page}.jpg")
        dataset = "publaynet" if subfield == "drawing" else page
        for box in boxes:
            yield Labelled(f"{page} {box}", subfield, dataset, page, pixels.crop(box))
    for path in sorted((documents / "patho_r1_pages" / "crops").glob("*.jpg")):
        yield _file(path, "histopathology", "patho_r1_pages", "patho_r1_pages")


def _open(path: Path) -> PILImage.Image:
    with PILImage.open(path) as picture:
        return picture.convert("RGB")


def _file(path: Path, subfield: str, dataset: str, group: str) -> Labelled:
    return Labelled(f"{path.parent.name}/{path.name}", subfield, dataset, group, _open(path))


def _part(path: Path, subfield: str, dataset: str, part: Fraction) -> Labelled:
    whole = _open(path)
    box = [round(share * size) for share, size in zip(part, (*whole.size, *whole.size), strict=True)]
    pixels = whole.crop((box[0], box[1], box[2], box[3]))
    return Labelled(f"{path.name} {part}", subfield, dataset, path.name, pixels)


def _crops(
    field: PILImage.Image, side_px: int, subfield: str, dataset: str, group: str, min_spread: float = 0
) -> Iterator[Labelled]:
    """Squares side by side; those whose brightness spreads less than `min_spread` show (almost) nothing."""
    for y in range(0, field.height - side_px + 1, side_px):
        for x in range(0, field.width - side_px + 1, side_px):
            crop = field.crop((x, y, x + side_px, y + side_px))
            grey = crop.convert("L").resize((64, 64))
            values = list(grey.tobytes())
            mean = sum(values) / len(values)
            if (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5 >= min_spread:
                yield Labelled(f"{group} {dataset} {side_px} {x} {y}", subfield, dataset, group, crop)


_ADOBE_RGB = bytes.fromhex("ffee000e41646f626500640000000000")
"""JPEG's marker for "three channels, not transformed": Aperio stores RGB without it."""


def _jpeg_tiff(path: Path) -> PILImage.Image:
    """First page of a tiled TIFF of JPEG tiles, which Pillow's libtiff refuses for these files."""
    with PILImage.open(path) as header:
        tags, size = dict(header.tag_v2), header.size  # type: ignore[attr-defined]
    raw = path.read_bytes()
    tables = tags.get(347, b"")
    plain_rgb = 32997 in tags  # ImageDepth, which Aperio writes and OME does not
    whole = PILImage.new("RGB", size, "white")
    across = -(-size[0] // tags[322])
    for index, (start, length) in enumerate(zip(tags[324], tags[325], strict=True)):
        data = raw[start : start + length]
        data = tables[:-2] + data[2:] if tables else data
        if plain_rgb:
            data = data[:2] + _ADOBE_RGB + data[2:]
        with PILImage.open(io.BytesIO(data)) as tile:
            whole.paste(tile.convert("RGB"), (index % across * tags[322], index // across * tags[323]))
    return whole


def counts(pictures: list[Labelled]) -> str:
    """Images and groups of each data set, for the record."""
    rows: dict[str, list[str]] = {}
    for subfield in dict.fromkeys(one.subfield for one in pictures):
        for dataset in dict.fromkeys(one.dataset for one in pictures if one.subfield == subfield):
            inside = [one for one in pictures if (one.subfield, one.dataset) == (subfield, dataset)]
            groups = len({one.group for one in inside})
            rows.setdefault(subfield, []).append(f"{dataset} {len(inside)}/{groups}")
    return json.dumps(rows, indent=1)
