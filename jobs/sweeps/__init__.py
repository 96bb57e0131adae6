"""Sweeps: the trials of a table, run in this process, in several processes or as Ray tasks."""
