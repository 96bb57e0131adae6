"""A table of runs: ablation files, their trials on disk, intervals, reports and the dry run."""
