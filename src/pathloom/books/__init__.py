"""From pages to figures: reading, layout, captions, panels, references. `ingest/books.py` makes the Samples."""
