"""Samples to better Samples: labels, levels, reasoning, filters and draws. One file a step or pass."""
