"""Synthetic pathology images whose truth is known because they were drawn."""
