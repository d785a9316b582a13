"""What stands on a PDF page, and what becomes of files that are not as they should be."""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.books import odd_pdfs
from tests.books.odd_pdfs import grey_picture, one_page, text_at

from pathloom.books.page import Page
from pathloom.books.pdf import BadBook, open_pdf, page_sizes_px, read_pdf_page, render, sizes_of_aspect
from pathloom.books.pdf_letters import clean

pytest.importorskip("pypdfium2", reason="needs the extra `books`")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_pdf(data: bytes) -> Path:
        path = tmp_path / "book.pdf"
        path.write_bytes(data)
        return path

    return write_pdf


@pytest.fixture
def read(write: Any) -> Any:
    def read_bytes(data: bytes, number: int = 1) -> Page:
        with open_pdf(write(data)) as document:
            return read_pdf_page(document, number)

    return read_bytes


def texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


# Files


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (odd_pdfs.encrypted(), "encrypted"),
        (odd_pdfs.truncated(), "truncated"),
        (odd_pdfs.without_pages(), "no_pages"),
        (b"A letter, named .pdf by mistake.", "not_a_pdf"),
        (b"", "not_a_pdf"),
        (b"%PDF-1.4\n" + b"noise " * 1000 + b"\n%%EOF\n", "damaged"),
    ],
)
def test_a_file_that_is_no_book_says_why(write: Any, data: bytes, reason: str):
    path = write(data)
    with pytest.raises(BadBook, match="book") as caught:
        open_pdf(path)
    assert caught.value.reason == reason


def test_a_missing_file_is_unreadable(tmp_path: Path):
    with pytest.raises(BadBook) as caught:
        open_pdf(tmp_path / "none.pdf")
    assert caught.value.reason == "unreadable"


def test_a_book_cut_off_behind_its_first_pages_is_refused_though_it_could_be_mended(write: Any):
    whole = one_page(text_at(72, 700, "A line."), pages=3)
    with pytest.raises(BadBook) as caught:
        open_pdf(write(whole[: whole.index(b"xref")]))
    assert caught.value.reason == "truncated"


def test_the_right_password_opens_a_locked_book(write: Any):
    path = write(odd_pdfs.encrypted("slide"))
    with pytest.raises(BadBook, match="does not open with this password"):
        open_pdf(path, "slice")
    with open_pdf(path, "slide") as document:
        assert texts(read_pdf_page(document, 1)) == ["Locked away."]


def test_a_page_that_is_not_there_is_a_bad_page(write: Any):
    with open_pdf(write(one_page(""))) as document, pytest.raises(BadBook) as caught:
        read_pdf_page(document, 2)
    assert caught.value.reason == "bad_page"


def test_a_page_without_an_area_is_a_bad_page(write: Any):
    beside = one_page("", keys="/CropBox[900 0 1000 100]")
    with open_pdf(write(beside)) as document:
        for use in (lambda: read_pdf_page(document, 1), lambda: page_sizes_px(document)):
            with pytest.raises(BadBook) as caught:
                use()
            assert caught.value.reason == "bad_page"


def test_five_thousand_blank_pages_open_at_once_and_each_is_blank(write: Any):
    path = write(one_page("", pages=5000))
    begin = time.process_time()
    with open_pdf(path) as document:
        assert len(document) == 5000
        pages = [read_pdf_page(document, number) for number in (1, 2500, 5000)]
    assert time.process_time() - begin < 2
    for page in pages:
        assert (page.lines, page.graphics, page.text_from, page.kind) == ((), (), "none", "digital")


# Text


def test_words_on_one_baseline_are_one_line_and_columns_are_not(read: Any):
    page = read(
        one_page(
            text_at(50, 700, "Left column")
            + text_at(105, 700, "goes on")
            + text_at(160, 700, "Right column")
            + text_at(50, 688, "second line")
        )
    )
    assert texts(page) == ["Left column goes on", "Right column", "second line"]


def test_a_line_that_the_file_writes_in_pieces_out_of_order_is_one_line(read: Any):
    page = read(
        one_page(text_at(84, 700, "plain") + text_at(50, 600, "else") + text_at(50, 700, "Figure", 10, "F2"))
    )
    assert texts(page) == ["Figure plain", "else"]


def test_a_gap_inside_one_piece_of_text_ends_the_line(read: Any):
    page = read(one_page("BT /F1 10 Tf 50 500 Td [(left)-4000(right)] TJ ET"))
    assert texts(page) == ["left", "right"]


def test_sub_and_superscripts_belong_to_their_line(read: Any):
    page = read(
        one_page(
            text_at(50, 600, "H")
            + text_at(57.2, 597, "2", 6)
            + text_at(60.6, 600, "O in cm")
            + text_at(95.6, 604, "2", 6)
            + text_at(99.5, 600, ".")
            + text_at(50, 588, "next line")
        )
    )
    assert texts(page) == ["H2O in cm2.", "next line"]


def test_an_initial_does_not_swallow_the_line_beside_its_foot(read: Any):
    page = read(one_page(text_at(50, 600, "T", 36) + text_at(73, 600, "third line beside it")))
    assert texts(page) == ["T", "third line beside it"]


def test_hyphens_at_line_ends_stay(read: Any):
    page = read(
        one_page(
            text_at(50, 600, "hyphen-")
            + text_at(50, 588, "ated and soft\\255")
            + text_at(50, 576, "ly. ")
            + text_at(50, 552, "3-2")
        )
    )
    assert texts(page) == ["hyphen-", "ated and soft-", "ly.", "3-2"]


def test_text_drawn_twice_for_bold_is_read_once(read: Any):
    between = [f"line {name}" for name in "abcdefghijkl"]  # pdfium itself looks a few pieces back only
    content = text_at(50, 700, "Bold")
    content += "".join(text_at(50, 600 - 20 * i, text) for i, text in enumerate(between))
    content += text_at(50.4, 700, "Bold") + text_at(50, 300, "Bold")
    assert texts(read(one_page(content))) == ["Bold", *between, "Bold"]


def test_a_bitmap_font_of_nominal_size_is_as_large_as_its_glyphs(read: Any):
    square = odd_pdfs.stream(b"600 0 0 0 600 700 d1 50 0 500 700 re f")
    font = odd_pdfs.type3_font().replace(b"0.001", b"0.01")
    page = read(one_page(text_at(50, 600, "THE AND OF", 1), fonts=(font, odd_pdfs.HELVETICA, square)))
    assert [(line.text, line.size_pt) for line in page.lines] == [("THE AND OF", pytest.approx(7))]


def test_a_line_is_bold_when_most_of_it_is(read: Any):
    page = read(
        one_page(
            text_at(50, 700, "A heading", font="F2")
            + text_at(50, 600, "Fig. 1", font="F2")
            + text_at(82, 600, "and then a long caption")
            + text_at(50, 500, "slanted", font="F3"),
            fonts=(
                odd_pdfs.HELVETICA,
                odd_pdfs.HELVETICA_BOLD,
                odd_pdfs.HELVETICA.replace(b"/Helvetica", b"/Times-Italic"),
            ),
        )
    )
    assert [(line.text, line.bold, line.italic) for line in page.lines] == [
        ("A heading", True, False),
        ("Fig. 1 and then a long caption", False, False),
        ("slanted", False, True),
    ]


def test_the_size_is_the_displayed_one_whatever_the_matrices_say(read: Any):
    page = read(
        one_page(
            "q 2 0 0 2 0 0 cm BT /F1 5 Tf 1 0 0 1.5 25 300 Tm (scaled) Tj ET Q "
            "BT /F1 1 Tf 12 0 0 12 50 500 Tm (unit) Tj ET "
            "BT /F1 10 Tf 0 2 -2 0 300 300 Tm (turned) Tj ET"
        )
    )
    assert [round(line.size_pt, 2) for line in page.lines] == [15, 12, 20]


def test_a_box_holds_its_glyphs_and_little_more(read: Any):
    line = read(one_page(text_at(100, 700, "Hpx", 20))).lines[0]
    x1, y1, x2, y2 = line.box_pt
    assert (x1, x2) == pytest.approx((100, 100 + 20 * (0.722 + 0.556 + 0.5)), abs=0.5)
    baseline = 842 - 700
    assert baseline - 18 <= y1 <= baseline - 14
    assert baseline + 4 <= y2 <= baseline + 6


def test_turned_text_keeps_its_box_and_its_order(read: Any):
    line = read(one_page("BT /F1 10 Tf 0 1 -1 0 300 300 Tm (Cells per field) Tj ET")).lines[0]
    assert line.text == "Cells per field"
    x1, y1, x2, y2 = line.box_pt
    assert 290 < x1 < x2 < 303
    assert y2 == pytest.approx(842 - 300, abs=1)
    assert y2 - y1 > 60


def test_chinese_is_read_without_spaces_and_with_its_own_comma(read: Any):
    assert texts(read(odd_pdfs.chinese())) == ["图3-2 肝细胞的组织学表现\uff0cHE\u00d7200。"]


def test_cleaning_spells_out_ligatures_and_leaves_the_rest():
    assert clean("e\ufb03cient\0 \U0001d465") == "efficient x"
    assert clean("x² ½ µm ①") == "x² ½ µm ①"
    assert clean("\uff21\uff11 \u2f00") == "A1 一"
    assert clean("Tu\u0308r") == "Tür"


def test_text_beyond_the_page_is_not_there(read: Any):
    page = read(one_page(text_at(50, 700, "on it") + text_at(50, 900, "above") + text_at(-300, 500, "left")))
    assert texts(page) == ["on it"]


@pytest.mark.parametrize("data", [odd_pdfs.without_unicode(), odd_pdfs.subset_without_map()])
def test_fonts_that_do_not_say_what_their_letters_are_give_no_text(read: Any, data: bytes):
    page = read(data)
    assert (page.lines, page.text_from, page.kind) == ((), "none", "unmapped")


def test_an_unmapped_font_whose_codes_are_ascii_is_read_with_its_ligatures(read: Any):
    content = "".join(
        text_at(72, 700 - 14 * i, "THE NUCLEI OF THE CELLS ARE IN THE \\014ELD AND \\015AT \\013")
        for i in range(9)
    )
    square = odd_pdfs.stream(b"600 0 0 0 600 700 d1 50 0 500 700 re f")
    page = read(one_page(content, fonts=(odd_pdfs.type3_font(), odd_pdfs.HELVETICA, square)))
    assert page.kind == "digital"
    assert page.lines[0].text == "THE NUCLEI OF THE CELLS ARE IN THE fiELD AND flAT ff"


# Scans


def test_a_scan_with_hidden_text_is_a_scan_with_lines(read: Any):
    page = read(odd_pdfs.scan_with_hidden_text())
    assert (page.kind, page.text_from, texts(page)) == ("scan", "layer", ["Read by a machine."])


def test_a_scan_without_text_and_one_in_strips_are_scans(read: Any):
    whole = one_page("q 595 0 0 842 0 0 cm /X1 Do Q", pictures=(grey_picture(),))
    strips = "".join(f"q 595 0 0 101 0 {100 * i} cm /X1 Do Q " for i in range(8))
    for data in (whole, one_page(strips, pictures=(grey_picture(),))):
        page = read(data)
        assert (page.kind, page.text_from) == ("scan", "none")


def test_text_below_an_opaque_page_picture_is_hidden_text(read: Any):
    words, picture = text_at(72, 700, "Under it."), "q 595 0 0 842 0 0 cm /X1 Do Q "
    below = read(one_page(words + picture, pictures=(grey_picture(),)))
    above = read(one_page(picture + words, pictures=(grey_picture(),)))
    assert (below.kind, texts(below)) == ("scan", ["Under it."])
    assert (above.kind, texts(above)) == ("digital", ["Under it."])


def test_invisible_text_on_a_digital_page_is_left_out(read: Any):
    assert texts(read(one_page(text_at(72, 700, "Seen.") + text_at(72, 600, "Unseen.", mode=3)))) == ["Seen."]


# Rendering


def test_the_page_sizes_are_patho_r1s():
    assert sizes_of_aspect(595 / 842) == ((840, 1176), (1680, 2352))  # the sample of the released code
    assert sizes_of_aspect(1.0) == ((980, 980), (1960, 1960))
    assert sizes_of_aspect(1e-6)[0][0] == 28


def test_one_page_gives_the_sizes_of_all(write: Any):
    with open_pdf(write(one_page("", media_pt=(0, 0, 842, 595), pages=60))) as document:
        assert page_sizes_px(document) == ((1176, 840), (2352, 1680))


def test_rendering_fills_the_size_asked_for(write: Any):
    with open_pdf(write(one_page("1 0 0 rg 0 421 595 421 re f"))) as document:
        picture = render(document, 1, 84, 112)
    assert picture.size == (84, 112)
    assert picture.mode == "RGB"
    assert picture.getpixel((40, 20)) == (255, 0, 0)
    assert picture.getpixel((40, 90)) == (255, 255, 255)


def test_a_rendering_beyond_the_cap_is_refused(write: Any):
    with open_pdf(write(one_page(""))) as document, pytest.raises(BadBook) as caught:
        render(document, 1, 60_000, 60_000)
    assert caught.value.reason == "too_many_pixels"


def test_a_page_of_sixty_thousand_points_is_read_and_rendered_like_any_other(write: Any):
    data = one_page(
        text_at(100, 40_000, "Far out.", 1000) + "900 w 0 0 m 60000 60000 l S",
        media_pt=(0, 0, 60_000, 60_000),
    )
    with open_pdf(write(data)) as document:
        page = read_pdf_page(document, 1)
        (width_px, height_px), _ = page_sizes_px(document)
        picture = render(document, 1, width_px, height_px)
    assert texts(page) == ["Far out."]
    assert len(page.graphics) == 1
    assert picture.size == (980, 980)
    assert picture.getpixel((490, 490)) == (0, 0, 0)


def peak_bytes(state: None, path: Path) -> tuple[str, int]:
    """What the page is, and the most memory that this process held; getrusage would hand on its parent's."""
    with open_pdf(path) as document:
        try:
            kind: str = read_pdf_page(document, 1).kind
        except BadBook as error:
            kind = error.reason
        render(document, 1, 840, 1176)
    status = Path("/proc/self/status").read_text()
    return kind, int(status.split("VmHWM:")[1].split()[0]) * 1024


def start_nothing() -> None:
    return None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("side_px", "kind"), [(10_000, "scan"), (60_000, "too_many_pixels")])
def test_a_vast_picture_on_a_page_does_not_fill_the_memory(write: Any, side_px: int, kind: str):
    from pathloom.books.workers import run_each

    path = write(one_page("q 595 0 0 842 0 0 cm /X1 Do Q", pictures=(odd_pdfs.vast_picture(side_px),)))
    caps: dict[str, Any] = {"seconds_each": 60, "bytes_each": 2**30}
    ((_, result),) = run_each(peak_bytes, [path], start=start_nothing, workers=1, **caps)
    assert isinstance(result, tuple), result
    assert result[0] == kind
    assert result[1] < 400 * 2**20


# Real files


def test_a_digital_article_is_read_fast(data_root: Path):
    path = data_root / "documents" / "pdfs" / "eiph_1908.04767.pdf"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with open_pdf(path) as document:
        read_pdf_page(document, 1)  # imports
        times = []
        for number in range(1, len(document) + 1):
            begin = time.process_time()
            page = read_pdf_page(document, number)
            times.append(time.process_time() - begin)
            assert page.kind == "digital"
            assert page.lines
    # 15 to 20 ms on the machine this was written on; two cores and 20 pages a second leave 100.
    assert statistics.median(times) < 0.06
