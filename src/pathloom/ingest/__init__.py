"""Readers of the world outside, one file a source. A new source is one file and one entry in SOURCES."""

from pathloom.ingest.basics import BASICS
from pathloom.ingest.books import BOOKS
from pathloom.ingest.boxes import BOXES
from pathloom.ingest.cells import CELLS
from pathloom.ingest.cytotext import CYTOTEXT
from pathloom.ingest.masks import MASKS
from pathloom.ingest.pairs import PAIRS
from pathloom.ingest.phantom import PHANTOM
from pathloom.ingest.phantom_slides import PHANTOM_SLIDES
from pathloom.ingest.questions import QUESTIONS
from pathloom.ingest.slides import SLIDES
from pathloom.ingest.source import Source
from pathloom.ingest.tiles import TILES

SOURCES: tuple[Source, ...] = (
    PHANTOM,
    PHANTOM_SLIDES,
    BASICS,
    TILES,
    BOXES,
    MASKS,
    CELLS,
    PAIRS,
    BOOKS,
    CYTOTEXT,
    QUESTIONS,
    SLIDES,
)
