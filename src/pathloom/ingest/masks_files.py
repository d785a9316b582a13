"""Files of object masks: which belong to which picture, and the objects they hold. Four forms are read.

png_per_object  NAME/images/PICTURE and NAME/masks/*, one object a file (Data Science Bowl 2018)
binary          IMAGES/STEM.* and MASKS/STEM.*, light on dark; an object is a connected piece
label_png       the same folders; a pixel's value is a class, and an object a connected piece of one value
aperio_xml      STEM.xml beside the picture; a Region's vertices are an object's outline (ImageScope)

Masks of grey are cut at MASK_THRESHOLD, as JPEG leaves a few values on either side of 0 and 255 and a ramp between.
Connected pieces touch by a side or a corner.
"""

import io
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from PIL import Image as PILImage

from pathloom.images import LIMITS, SUFFIXES, BadImage, decode
from pathloom.ingest.box_files import Fault, parse_xml
from pathloom.masks import CutMask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Format = Literal["png_per_object", "binary", "label_png", "aperio_xml"]

MASK_THRESHOLD = 128
"""Half of white: the edge that JPEG blurs lies where it is crossed."""
MAX_XML_BYTES = 256 * 2**20
"""An outline has some hundred vertices of 40 bytes, so that some fifty thousand objects fit. Our own number."""


class Masked(NamedTuple):
    """One picture and the files of its masks, or (`path` is None) what belongs to no picture and why."""

    name: str
    path: Path | None = None
    files: tuple[Path, ...] = ()
    fault: Fault | None = None


class Thing(NamedTuple):
    """One object of a picture: its value in a label file ("" elsewhere) and its mask, which lies in the picture."""

    label: str
    cut: CutMask


# --------------------------------------------------------------------------------------- which file is whose
def find_masked(root: Path, form: Format, images: str, masks: str) -> list[Masked]:
    """All pictures below `root` with the files of their masks; reads no file."""
    if form == "png_per_object":
        return [_per_object(folder, root) for folder in sorted(root.iterdir()) if folder.is_dir()]
    if form == "aperio_xml":
        return _paired(_by_name(root, SUFFIXES), _by_name(root, (".xml",)), root)
    return _paired(_by_name(root / images, SUFFIXES), _by_name(root / masks, SUFFIXES), root / images)


def _by_name(folder: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Path below the folder without its suffix -> the files of that name, which should be one."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes:
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return found


def _per_object(folder: Path, root: Path) -> Masked:
    pictures = [path for path in sorted((folder / "images").glob("*")) if path.suffix.lower() in SUFFIXES]
    files = tuple(sorted(path for path in (folder / "masks").glob("*") if path.is_file()))
    name = folder.relative_to(root).as_posix()
    if len(pictures) != 1:
        return Masked(
            name, fault=Fault("no_one_picture", f"{folder}/images: {len(pictures)} pictures, one is needed")
        )
    if not files:
        return Masked(name, fault=Fault("no_masks", f"{folder}/masks: holds no file"))
    return Masked(name, pictures[0], files)


def _paired(pictures: dict[str, list[Path]], masks: dict[str, list[Path]], root: Path) -> list[Masked]:
    found = []
    for key, (path, *others) in sorted(pictures.items()):
        name = path.relative_to(root).as_posix()
        files = masks.get(key, [])
        if not files:
            found.append(Masked(name, fault=Fault("no_masks", f"{path}: no file of masks has its name")))
        elif others or len(files) > 1:
            alike = ", ".join(map(str, (path, *others, *files)))
            found.append(
                Masked(name, fault=Fault("ambiguous_name", f"{alike}: which of them belong together?"))
            )
        else:
            found.append(Masked(name, path, (files[0],)))
    for key, files in sorted(masks.items()):
        if key not in pictures:
            found += [
                Masked(path.name, fault=Fault("missing_image", f"{path}: no picture has its name"))
                for path in files
            ]
    return found


# ------------------------------------------------------------------------------------------ what a file holds
def read_things(form: Format, file: Path, size_px: tuple[int, int]) -> Iterator[Thing | Fault]:
    """The objects of one file of masks over a picture of `size_px` (width, height), and what of it is no object."""
    if form == "aperio_xml":
        yield from _outlined(file, size_px)
        return
    try:
        values = _label_values(file) if form == "label_png" else _grey(file) >= MASK_THRESHOLD
    except BadImage as error:
        yield Fault(error.reason, str(error))
        return
    height, width = values.shape
    if (width, height) != size_px:
        yield Fault("other_size", "{}: {}x{} px, the picture {}x{}".format(file, width, height, *size_px))
        return
    if not values.any():
        yield Fault("empty_mask", f"{file}: no pixel is set")
    elif form == "png_per_object":
        yield Thing("", CutMask(0, 0, values > 0).trimmed())
    else:
        yield from _pieces(values)


def _read(file: Path) -> bytes:
    try:
        size_bytes = file.stat().st_size
        if size_bytes > LIMITS.max_bytes:
            raise BadImage(
                "too_many_bytes", f"{file}: {size_bytes} bytes, at most {LIMITS.max_bytes} are read"
            )
        return file.read_bytes()
    except OSError as error:
        raise BadImage("unreadable", f"{file}: {error.strerror}") from error


def _grey(file: Path) -> "NDArray[np.uint8]":
    import numpy as np

    return np.array(decode(_read(file), str(file)).convert("L"))


def _label_values(file: Path) -> "NDArray[np.uint8]":
    """The values as stored; a palette's indices, not its colours."""
    import numpy as np

    data = _read(file)
    decode(data, str(file))  # checks the caps and that it is whole
    with PILImage.open(io.BytesIO(data)) as picture:
        if picture.mode not in ("L", "P"):
            raise BadImage(
                "no_label_values",
                f"{file}: Pillow mode {picture.mode}; a value a pixel is needed, as grey or palette",
            )
        return np.array(picture)


def _pieces(values: "NDArray[np.uint8] | NDArray[np.bool_]") -> Iterator[Thing]:
    import numpy as np
    from scipy.ndimage import find_objects, label

    is_label = values.dtype != np.bool_
    for value in np.unique(values[values > 0]):
        pieces, _ = label(values == value, structure=np.ones((3, 3)))
        for number, (rows, columns) in enumerate(find_objects(pieces), start=1):
            bits = pieces[rows, columns] == number
            yield Thing(str(int(value)) if is_label else "", CutMask(columns.start, rows.start, bits))


# -------------------------------------------------------------------------------------------------- outlines
def _outlined(file: Path, size_px: tuple[int, int]) -> Iterator[Thing | Fault]:
    root = parse_xml(file, "Annotations", MAX_XML_BYTES)
    if isinstance(root, Fault):
        yield root
        return
    regions = list(root.iter("Region"))
    if not regions:
        yield Fault("no_masks", f"{file}: holds no Region")
    for place, region in enumerate(regions, start=1):
        where = f"{file}: Region {region.get('Id') or place}"
        vertices = _vertices(region)
        cut = None if vertices is None else outlined_mask(vertices, size_px)
        if vertices is None:
            yield Fault(
                "bad_outline", f"{where}: fewer than three vertices, or one that is no pair of numbers"
            )
        elif cut is None:
            yield Fault(
                "outside", f"{where}: encloses no pixel of the picture of {size_px[0]}x{size_px[1]} px"
            )
        else:
            yield Thing("", cut)


def _vertices(region: ET.Element) -> list[tuple[float, float]] | None:
    try:
        found = [(float(v.get("X", "")), float(v.get("Y", ""))) for v in region.iter("Vertex")]
    except ValueError:
        return None
    finite = all(map(math.isfinite, (edge for vertex in found for edge in vertex)))
    return found if finite and len(found) >= 3 else None


def outlined_mask(vertices: Sequence[tuple[float, float]], size_px: tuple[int, int]) -> CutMask | None:
    """The pixels of the picture whose middles a closed outline encloses by the even-odd rule; None if there are none.

    Vertices count from the corner of the first pixel, as Aperio's level-0 coordinates do.
    """
    import numpy as np

    width, height = size_px
    x, y = np.array(vertices, dtype=np.float64).T
    left, right = max(0, math.floor(x.min())), min(width, math.ceil(x.max()))
    top, bottom = max(0, math.floor(y.min())), min(height, math.ceil(y.max()))
    if left >= right or top >= bottom:
        return None
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    middles = np.arange(left, right) + 0.5
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    for row in range(top, bottom):
        level = row + 0.5
        crosses = (y <= level) != (next_y <= level)
        at = x[crosses] + (level - y[crosses]) * (next_x - x)[crosses] / (next_y - y)[crosses]
        mask[row - top] = np.searchsorted(np.sort(at), middles) % 2 == 1
    return CutMask(left, top, mask).trimmed() if mask.any() else None
