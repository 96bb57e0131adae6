"""What a person runs: recipes, training on Ray Train, evaluation, tracking, sweeps and the ``stgcma-jobs`` command.

Rooms, each importing only those to its left: ``runs`` <- ``tables`` <- ``sweeps`` <- ``demo`` <- ``commands``;
``preparation`` (preprocessing, synthetic data) stands beside them and imports none of them.
"""

from pathlib import Path

SHIPPED = Path(__file__).parent
"""Folder of the shipped files: ``recipes/``, ``ablations/`` and ``published.yaml``."""
