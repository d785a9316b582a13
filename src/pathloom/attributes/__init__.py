"""Attribute schemas: what is asked about a picture, value by value, in English and in Chinese, as data.

A schema is a YAML file: the shipped `cervical_cell`, or a user's own for any kind of picture. It is the lexicon by
which free words become values, the options that questions are made of, and the words in which a caption is written.
"""

from pathloom.attributes.files import load_schema, shipped_schemas
from pathloom.attributes.kinds import (
    FLAG_JOIN,
    NO_FLAG,
    AttributeKind,
    AttributeSchema,
    UnknownWords,
)
from pathloom.attributes.reading import LANGUAGES, Language

__all__ = [
    "ANNOTATION_TITLE",
    "DISPUTE_TITLE",
    "FLAG_JOIN",
    "LANGUAGES",
    "NO_FLAG",
    "AttributeKind",
    "AttributeSchema",
    "Language",
    "UnknownWords",
    "load_schema",
    "shipped_schemas",
]

ANNOTATION_TITLE = "CellAnnotation"
"""Title of the JSON schema in which an annotator is asked for all attributes of one picture and a caption."""
DISPUTE_TITLE = "Dispute"
"""Title of the JSON schema in which an arbiter is asked to choose among the values that annotators gave."""
