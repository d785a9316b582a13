"""Asking text and vision models, and never paying twice for an answer."""
