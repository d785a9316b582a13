"""Real captions as rows of a `pairs` table, as raw as their sources have them: markup, bad characters and all."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

_CNXML = "{http://cnx.rice.edu/cnxml}"

Row = dict[str, str]


def write_table(root: Path, path: Path) -> list[Row]:
    """All rows of the three collections below `root` (PATHLOOM_DATA) into a JSON-lines table."""
    rows = [*_teaching(root), *_roco(root), *_openstax(root)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def _teaching(root: Path) -> Iterator[Row]:
    """Hand-written captions of a course: JavaScript lists, one a specimen, which is the group."""
    text = (root / "questions/teaching_captions/data.js").read_bytes().decode("utf-8", "replace")
    group, number = "", 0
    for line in text.splitlines():
        specimen = re.match(r"var (\w+)\s*=\s*$", line)
        group = specimen[1] if specimen else group
        entry = re.match(r"\s*\[\s*'([^']+)'\s*,\s*'((?:[^'\\]|\\.)*)'", line)
        if entry:
            number += 1
            row = {"id": f"teaching-{number}", "caption": entry[2], "group": group, "licence": "none given"}
            yield row


def _roco(root: Path) -> Iterator[Row]:
    """Captions of articles, each with the licence of its own."""
    folder = root / "questions/roco_captions"
    with (folder / "licences.txt").open(encoding="utf-8") as file:
        licences = {row["ROCO_ID"]: row for row in csv.DictReader(file)}
    for line in (folder / "captions.txt").read_text("utf-8").splitlines():
        name, _, caption = line.partition("\t")
        licence = licences.get(name, {"CC": "", "PMC_ID": name})
        article = licence["PMC_ID"].partition("_")[0]
        yield {"id": name, "caption": caption, "group": article, "licence": licence["CC"]}


def _openstax(root: Path) -> Iterator[Row]:
    """Figures of textbook sections: picture, caption, and the first paragraph that links to the figure."""
    for path in sorted(root.glob("documents/openstax/*/index.cnxml")):
        tree = ElementTree.fromstring(path.read_text("utf-8"))
        for figure in tree.iter(f"{_CNXML}figure"):
            linked = (
                para
                for para in tree.iter(f"{_CNXML}para")
                if any(link.get("target-id") == figure.get("id") for link in para.iter(f"{_CNXML}link"))
            )
            reference = next(linked, None)
            caption, image = figure.find(f"{_CNXML}caption"), next(figure.iter(f"{_CNXML}image"), None)
            yield {
                "id": f"openstax-{figure.get('id')}",
                "caption": "" if caption is None else "".join(caption.itertext()),
                "reference": "" if reference is None else "".join(reference.itertext()),
                "image": ""
                if image is None
                else str(path.parent / "media" / Path(image.get("src", "")).name),
                "group": path.parent.name,
                "licence": "CC BY-NC-SA 4.0",
            }
