"""Measuring: answers of a model to metrics with intervals, and metrics to a report."""
