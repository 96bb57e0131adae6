"""Preprocessing and synthetic data sets as commands: their progress bars and summaries."""
