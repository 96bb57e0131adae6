"""What a person runs: recipes, training on Ray Train, evaluation, tracking, sweeps and the ``stgcma-jobs`` command."""
