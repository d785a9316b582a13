"""Folders of bad page images through the whole extraction: each has its status, and the rest is done."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from tests.books.bad_shelf import a_book, deny, read, statuses

from pathloom.books.table import row_of


def page_picture() -> PILImage.Image:
    picture = PILImage.new("RGB", (600, 800), "white")
    font = ImageFont.load_default(size=22)
    for row in range(2):
        ImageDraw.Draw(picture).text((40, 60 + 40 * row), "Glands are lined by cells.", "black", font)
    return picture


IMAGES = {
    "1.png": "ocr",
    "2_cut.png": "truncated",
    "3_words.png": "not_an_image",
    "4_cmyk.jpg": "ocr",
    "5_16_bits.png": "more_than_8_bits",
    "6_1_bit.png": "ocr",
    "7_palette.png": "ocr",
    "8_empty.png": "not_an_image",
    "9_paper.png": "blank",
    "10_vast.png": "too_many_pixels",
    "11_denied.png": "unreadable",
}


def write_images(folder: Path) -> None:
    """A folder of page images, few of them as they should be."""
    folder.mkdir(parents=True)
    picture = page_picture()
    picture.save(folder / "1.png")
    whole = (folder / "1.png").read_bytes()
    (folder / "2_cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "3_words.png").write_bytes(b"Words that somebody called a picture.")
    picture.convert("CMYK").save(folder / "4_cmyk.jpg")
    PILImage.fromarray(np.full((800, 600), 40_000, np.uint16)).save(folder / "5_16_bits.png")
    picture.convert("1").save(folder / "6_1_bit.png")
    picture.quantize(16).save(folder / "7_palette.png")
    (folder / "8_empty.png").write_bytes(b"")
    PILImage.new("L", (600, 800), 250).save(folder / "9_paper.png")
    PILImage.new("1", (9000, 9000)).save(folder / "10_vast.png")
    deny(folder / "11_denied.png")


def test_page_images_of_every_kind_have_their_status(tmp_path):
    write_images(tmp_path / "shelf" / "scan")
    (tmp_path / "shelf" / "good.pdf").write_bytes(a_book())
    books = read(tmp_path / "shelf", tmp_path / "out", ocr="auto")
    assert dict(zip(IMAGES, statuses(tmp_path / "out", "scan"), strict=True)) == IMAGES
    assert row_of(books["scan"])["failed"] == 6
    assert row_of(books["good"])["bound"] == 1


@pytest.mark.parametrize("bad", ["words", "vast", "denied"])
def test_a_bad_image_in_the_middle_does_not_lose_the_book(bad, tmp_path):
    """The middle page tells the book's shape."""
    folder = tmp_path / "scan"
    folder.mkdir()
    PILImage.new("L", (600, 800), 250).save(folder / "1.png")
    middle = folder / "2.png"
    if bad == "words":
        middle.write_bytes(b"Words.")
    elif bad == "vast":
        PILImage.new("1", (60_000, 4_000)).save(middle)
    else:
        deny(middle)
    book = read(folder, tmp_path / "out", ocr="auto")["scan"]
    assert book.failure is None
    assert book.pages[1].status == "blank"
    assert book.pages[2].failed


@pytest.mark.parametrize("size_px", [(1, 1), (1, 5000), (5000, 1)])
def test_an_image_of_a_pixel_is_a_status_and_no_error_of_a_library(size_px, tmp_path):
    (tmp_path / "scan").mkdir()
    PILImage.new("L", size_px, 250).save(tmp_path / "scan" / "1.png")
    read(tmp_path / "scan", tmp_path / "out", ocr="auto")
    assert statuses(tmp_path / "out", "scan") != ["error"]


def test_a_tiff_of_several_pages_does_not_lose_them_silently(tmp_path):
    pages = [PILImage.new("L", (600, 800), 250) for _ in range(3)]
    (tmp_path / "scan").mkdir()
    pages[0].save(tmp_path / "scan" / "1.tif", save_all=True, append_images=pages[1:])
    book = read(tmp_path / "scan", tmp_path / "out", ocr="auto")["scan"]
    assert book.pages[1].status == "several_pages"


def test_without_ocr_a_page_image_says_so(tmp_path):
    (tmp_path / "scan").mkdir()
    PILImage.new("L", (600, 800), 250).save(tmp_path / "scan" / "1.png")
    assert read(tmp_path / "scan", tmp_path / "out", ocr="never")["scan"].pages[1].status == "ocr_is_off"
