"""Whole slides: files to pixels at a stated resolution, tissue, tiles and their features."""
