"""Readers of the world outside, one file a source. A new source is one file and one entry in SOURCES."""

from pathloom.ingest.basics import BASICS
from pathloom.ingest.books import BOOKS
from pathloom.ingest.boxes import BOXES
from pathloom.ingest.cells import CELLS
from pathloom.ingest.cytotext import CYTOTEXT
from pathloom.ingest.pairs import PAIRS
from pathloom.ingest.phantom import PHANTOM
from pathloom.ingest.questions import QUESTIONS
from pathloom.ingest.source import Source
from pathloom.ingest.tiles import TILES

SOURCES: tuple[Source, ...] = (PHANTOM, BASICS, TILES, BOXES, CELLS, PAIRS, BOOKS, CYTOTEXT, QUESTIONS)
