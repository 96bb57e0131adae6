"""Where shards are made, and the error if Ray does not start."""

import pytest

from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from stgcma.errors import RunFailedError
from tests.media import write_ave


def test_an_error_says_what_to_do_if_ray_does_not_start(tmp_path, monkeypatch):
    import ray

    def too_slow(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", too_slow)
    source = write_ave(tmp_path / "ave")
    config = PreprocessConfig(
        dataset="ave", source=str(source), output=str(tmp_path / "out"), fbank_specs=("demo",), num_workers=1
    )
    with pytest.raises(RunFailedError, match=r"timed out during startup.*--num-workers 0"):
        preprocess(config)
