"""The command line around ``pipelines``: preprocessing and synthetic data sets, with their progress and summaries."""
