"""The datasets that can be preprocessed, by their ``--dataset`` name.

``--help`` reads their options from here, so the files of this folder import no torch, numpy or pyarrow when they are
imported. Functions that need them, or the modules that decode media, import them inside.
"""

from __future__ import annotations

from pipelines.datasets.ave import AVE
from pipelines.datasets.avsbench import AVSBenchMS3, AVSBenchS4
from pipelines.datasets.base import DatasetSource
from pipelines.datasets.music_avqa import MusicAVQA
from stgcma.errors import ConfigError

DATASETS: dict[str, DatasetSource] = {
    source.name: source for source in (AVE(), AVSBenchS4(), AVSBenchMS3(), MusicAVQA())
}


def dataset_source(name: str) -> DatasetSource:
    """The dataset with this name.

    Raises:
        ConfigError: If there is none; the message lists the valid names.
    """
    if name not in DATASETS:
        raise ConfigError(f"dataset needs one of {', '.join(DATASETS)}; got {name!r}.")
    return DATASETS[name]
