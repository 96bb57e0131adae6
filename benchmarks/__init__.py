"""Ratios against what a user would write otherwise, measured side by side in one run (``make bench``)."""
