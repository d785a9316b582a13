"""Which slides a file or folder holds, and when one of them has changed."""

import filecmp
from pathlib import Path

from pathloom.images import BadImage
from pathloom.slides.dicom import DICOM_SUFFIX, read_object

SLIDE_SUFFIXES = (
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".vms",
    ".vmu",
    ".bif",
    ".svslide",
    ".czi",
)
"""Formats of OpenSlide 4.0.1, DICOM aside; .ome.tif and .ome.tiff are among them."""


def find_slides(place: Path) -> dict[str, Path]:
    """Name -> what `open_slide` opens: each file of SLIDE_SUFFIXES and each DICOM series below a folder, or one file.

    Names are paths below the folder. A series is one slide, named after its folder, or after its first file where the
    folder holds several; of its files the first is given. DICOM files that are no level of a slide (segmentations,
    annotations, labels) are left out; a folder of DICOM files without any level is named with its first file, which
    `open_slide` refuses with the reason. A file that is named itself is taken whatever its suffix.
    """
    if not place.is_dir():
        return {place.name: place} if place.exists() else {}
    slides = {
        path.relative_to(place).as_posix(): path
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in SLIDE_SUFFIXES and not path.is_dir()
    }
    files = sorted(path for path in place.rglob("*") if path.suffix.lower() == DICOM_SUFFIX)
    for folder in dict.fromkeys(path.parent for path in files):
        slides |= _find_series(place, folder, [path for path in files if path.parent == folder])
    return slides


def _find_series(place: Path, folder: Path, files: list[Path]) -> dict[str, Path]:
    """Name -> first file of each series in one folder.

    A file that bears the instance UID of another one of its series is left out where it is a copy of it, and a slide of
    its own where it has been changed.
    """
    series: dict[tuple[str, int], Path] = {}
    bearers: dict[tuple[str, str], list[Path]] = {}
    for path in files:
        try:
            found = read_object(path)
        except BadImage:
            continue
        if not found.is_slide:
            continue
        same = bearers.setdefault((found.series, found.instance or path.name), [])
        if not any(filecmp.cmp(path, other, shallow=False) for other in same):
            series.setdefault((found.series, len(same)), path)
            same.append(path)
    firsts = list(series.values()) or files[:1]
    if len(firsts) > 1:
        return {path.relative_to(place).as_posix(): path for path in firsts}
    name = folder.relative_to(place).as_posix() if folder != place else place.resolve().name
    return {name: firsts[0]}


def slide_size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and latest change (ns) of all files of a slide: a series' folder, and the folder beside a .mrxs file."""
    files = [path]
    if path.suffix.lower() == DICOM_SUFFIX:
        files = [other for other in path.parent.iterdir() if other.suffix.lower() == DICOM_SUFFIX]
    elif path.suffix.lower() == ".mrxs":
        files += path.with_suffix("").rglob("*")
    stats = [file.stat() for file in files if file.is_file()]
    return sum(one.st_size for one in stats), max((one.st_mtime_ns for one in stats), default=0)
