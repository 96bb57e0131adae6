"""Places for shards: directories and URIs, with any characters in their names."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs
import pytest

from stgcma.data.manifest import open_filesystem
from stgcma.errors import ConfigError


@pytest.fixture(autouse=True)
def s3_settings(monkeypatch):
    """An endpoint that does not exist: nothing connects to it before a file is opened."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")


def test_a_directory_may_be_relative_or_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    filesystem, path = open_filesystem("data/shards/")
    assert isinstance(filesystem, pafs.LocalFileSystem)
    assert path == str(tmp_path / "data" / "shards")
    assert open_filesystem("~/shards")[1] == str(Path("/home/someone/shards"))


@pytest.mark.parametrize("path", ["bucket", "bucket/shards", "bucket/a b/clips (ä)", "bucket/x+y,z=1"])
def test_a_bucket_path_is_kept_and_the_region_comes_from_the_environment(path: str):
    filesystem, found = open_filesystem(f"s3://{path}/")
    assert (filesystem.region, found) == ("eu-west-1", path)


def test_options_in_a_uri_are_kept():
    filesystem, path = open_filesystem("s3://bucket/shards?region=us-west-2")
    assert (filesystem.region, path) == ("us-west-2", "bucket/shards")


@pytest.mark.parametrize("uri", ["s4://bucket/shards", "s3:///shards", "http://host/shards"])
def test_other_places_are_rejected(uri: str):
    with pytest.raises(ConfigError, match=r"Give a directory or s3://BUCKET/FOLDER"):
        open_filesystem(uri)
