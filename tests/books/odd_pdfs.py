"""PDF files that a reader may meet and few people make on purpose: locked, cut off, huge, rotated, without letters.

Each function gives the bytes of one file. They are written out by hand, object by object, so that a test knows what
stands in the file; only encryption is left to reportlab.
"""

import io
import zlib

A4_PT = (595, 842)
HELVETICA = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"
HELVETICA_BOLD = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica-Bold/Encoding/WinAnsiEncoding>>"


def assemble(objects: list[bytes]) -> bytes:
    """A file of these objects, numbered from 1; the first is the catalogue."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def stream(data: bytes, keys: bytes = b"") -> bytes:
    """A compressed stream object."""
    packed = zlib.compress(data)
    return b"<</Length %d/Filter/FlateDecode%s>>stream\n%s\nendstream" % (len(packed), keys, packed)


def one_page(
    content: str,
    *,
    fonts: tuple[bytes, ...] = (HELVETICA, HELVETICA_BOLD),
    pictures: tuple[bytes, ...] = (),
    media_pt: tuple[float, float, float, float] = (0, 0, *A4_PT),
    keys: str = "",
    pages: int = 1,
) -> bytes:
    """A file whose pages all show `content`. `fonts` are F1, F2, ..; `pictures` (images, forms) are X1, X2, ..

    `keys` is added to each page: "/Rotate 90" or "/CropBox[..]". Pictures may refer to pictures before them: the first
    is object 5 + len(fonts).
    """
    first_font, first_picture = 4, 4 + len(fonts)
    font_names = b"".join(b"/F%d %d 0 R" % (i + 1, first_font + i) for i in range(len(fonts)))
    picture_names = b"".join(b"/X%d %d 0 R" % (i + 1, first_picture + i) for i in range(len(pictures)))
    first_page = first_picture + len(pictures)
    page = (
        b"<</Type/Page/Parent 2 0 R/MediaBox[%s]/Contents 3 0 R/Resources<</Font<<%s>>/XObject<<%s>>>>%s>>"
        % (
            " ".join(map(str, media_pt)).encode(),
            font_names,
            picture_names,
            keys.encode(),
        )
    )
    kids = b" ".join(b"%d 0 R" % (first_page + i) for i in range(pages))
    return assemble(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count %d/Kids[%s]>>" % (pages, kids),
            stream(content.encode("latin-1")),
            *fonts,
            *pictures,
            *[page] * pages,
        ]
    )


def text_at(x_pt: float, y_pt: float, text: str, size_pt: float = 10, font: str = "F1", mode: int = 0) -> str:
    """Operators that write one piece of text with its baseline at (x, y), in the PDF's own frame, y up."""
    return f"BT {mode} Tr /{font} {size_pt} Tf {x_pt} {y_pt} Td ({text}) Tj ET\n"


def grey_picture(width_px: int = 4, height_px: int = 4, value: int = 128) -> bytes:
    """An even image object, 8 bits of grey."""
    keys = b"/Type/XObject/Subtype/Image/ColorSpace/DeviceGray/BitsPerComponent 8/Width %d/Height %d"
    return stream(bytes([value]) * (width_px * height_px), keys % (width_px, height_px))


def vast_picture(side_px: int = 60_000) -> bytes:
    """An RGB image object that unpacks to side * side * 3 bytes (10.8 GB) from some ten megabytes of file."""
    block = bytes([128]) * 2**20
    packer = zlib.compressobj(9)
    head = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    repeated = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it
    num_blocks = side_px * side_px * 3 // len(block) + 1
    packed = head + repeated * (num_blocks - 1) + packer.flush()
    keys = b"/Type/XObject/Subtype/Image/ColorSpace/DeviceRGB/BitsPerComponent 8/Width %d/Height %d"
    dictionary = b"<</Length %d/Filter/FlateDecode%s>>" % (len(packed), keys % (side_px, side_px))
    return b"%sstream\n%s\nendstream" % (dictionary, packed)


def form(content: str, box_pt: tuple[float, float, float, float], matrix: str, resources: str = "") -> bytes:
    """A form XObject: content with a frame and a matrix of its own."""
    keys = f"/Type/XObject/Subtype/Form/BBox[{' '.join(map(str, box_pt))}]/Matrix[{matrix}]/Resources<<{resources}>>"
    return stream(content.encode(), keys.encode())


def encrypted(password: str = "slide") -> bytes:
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer, encrypt=StandardEncryption(password, ownerPassword="owner", strength=128))
    canvas.drawString(72, 700, "Locked away.")
    canvas.save()
    return buffer.getvalue()


def truncated() -> bytes:
    """Three fifths of a file of twenty pages, as a broken download leaves it."""
    whole = one_page(text_at(72, 700, "A line."), pages=20)
    return whole[: len(whole) * 3 // 5]


def without_pages() -> bytes:
    return assemble([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 0/Kids[]>>"])


def of_many_objects(count: int = 20_000) -> bytes:
    """One page: a grid of small connected strokes in the middle third, and a rule far below."""
    strokes = [
        f"{200 + i % 200} {400 + i // 200} m {201 + i % 200} {401 + i // 200} l S\n" for i in range(count)
    ]
    return one_page("".join(strokes) + "72 100 m 523 100 l S\n")


def type3_font() -> bytes:
    """A font of squares whose glyph names say nothing, as old bitmap fonts have it."""
    glyphs = " ".join(f"/g{code} 6 0 R" for code in range(65, 91))
    names = " ".join(f"/g{code}" for code in range(65, 91))
    widths = " ".join(["600"] * 26)
    return (
        "<</Type/Font/Subtype/Type3/FontBBox[0 0 600 700]/FontMatrix[0.001 0 0 0.001 0 0]"
        f"/CharProcs<<{glyphs}>>/Encoding<</Type/Encoding/Differences[65 {names}]>>"
        f"/FirstChar 65/LastChar 90/Widths[{widths}]/Resources<<>>>>"
    ).encode()


def without_unicode() -> bytes:
    """Text that a reader sees and a program cannot: glyph names without meaning and no ToUnicode map."""
    square = stream(b"600 0 0 0 600 700 d1 50 0 500 700 re f")
    content = "".join(text_at(72, 700 - 14 * i, "ABCDEFGH JKLMNO QRSTUVW") for i in range(20))
    return one_page(content, fonts=(type3_font(), HELVETICA, square))


def scan_with_hidden_text() -> bytes:
    """A picture of a page with somebody's OCR behind it in render mode 3."""
    content = "q 595 0 0 842 0 0 cm /X1 Do Q\n" + text_at(72, 700, "Read by a machine.", mode=3)
    return one_page(content, pictures=(grey_picture(),))


def subset_without_map() -> bytes:
    """Real letters in an embedded subset whose codes are 1, 2, 3.. and whose ToUnicode map is gone."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas

    pdfmetrics.registerFont(TTFont("Vera", "Vera.ttf", asciiReadable=False))  # comes with reportlab
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pageCompression=0)
    canvas.setFont("Vera", 11)
    for line in range(10):
        canvas.drawString(72, 700 - 14 * line, "The nuclei of these cells are large and dark.")
    canvas.save()
    return buffer.getvalue().replace(b"/ToUnicode", b"/ToNothing")


def chinese() -> bytes:
    """A caption in Chinese, in a font that is not embedded."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfgen.canvas import Canvas

    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    canvas.setFont("STSong-Light", 11)
    canvas.drawString(72, 700, "图\uff13-2 肝细胞的组织学表现\uff0cHE\u00d7200。")
    canvas.save()
    return buffer.getvalue()
