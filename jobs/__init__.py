"""The ``stgcma-jobs`` command: preprocessing, training on Ray Train, evaluation, tracking, sweeps and reports.

Each folder imports only those to its left: ``runs`` <- ``tables`` <- ``sweeps`` <- ``demo`` <- ``commands``.
``preparation`` (preprocessing, synthetic data) imports none of them; only ``demo`` and ``commands`` import it.
"""

from pathlib import Path

SHIPPED = Path(__file__).parent
"""Folder of the shipped files: ``recipes/``, ``ablations/`` and ``published.yaml``."""
