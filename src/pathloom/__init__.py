"""pathloom: from pathology books, slides and cell images to a measured vision-language model."""

__version__ = "0.1.0"
