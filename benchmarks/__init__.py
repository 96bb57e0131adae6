"""Benchmarks: our code and the usual alternatives, measured side by side in one run (``make bench``)."""
