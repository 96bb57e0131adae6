"""The demuxer's table, and when a decoder's pictures are accepted."""

from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.media.timeline import Timeline, agreed, read_timeline
from stgcma.errors import ClipDecodeError
from tests.media import colour_frames, write_clip
from tests.unit.pipelines.media.helpers import info_of, row_of


@dataclass
class Packet:
    pts: int | None
    dts: int | None = 0
    is_keyframe: bool = False
    is_discard: bool = False
    size: int = 10
    duration: int = 1


STREAM = SimpleNamespace(time_base=Fraction(1, 10))


def read(*packets, **facts):
    return read_timeline(info_of(**facts), STREAM, packets)


def table(*pts, complete=True):
    return Timeline(pts=np.array(pts, np.int64), time_base=0.1, end_seconds=pts[-1] * 0.1 + 0.1, is_complete=complete)


def test_pictures_are_listed_in_the_order_of_display():
    timeline = read(Packet(0, is_keyframe=True), Packet(3), Packet(1), Packet(2), Packet(None, None, size=0))
    assert timeline.pts.tolist() == [0, 1, 2, 3]
    assert timeline.end_seconds == pytest.approx(0.4)
    assert timeline.is_complete


def test_discarded_pictures_and_those_before_the_first_key_picture_are_not_shown():
    cut = read(Packet(-2, is_keyframe=True, is_discard=True), Packet(-1, is_discard=True), Packet(0), Packet(1))
    assert cut.pts.tolist() == [0, 1]
    open_group = read(Packet(1), Packet(6, is_keyframe=True), Packet(4), Packet(5), Packet(7))
    assert open_group.pts.tolist() == [6, 7]


def test_a_table_with_gaps_or_repeats_is_not_complete():
    assert not read(Packet(0, is_keyframe=True), Packet(None, 1)).is_complete
    assert not read(Packet(0, is_keyframe=True), Packet(1), Packet(1)).is_complete


def test_nothing_to_show_fewer_than_declared_and_jumps_are_failures():
    with pytest.raises(ClipDecodeError, match="no frames"):
        read(Packet(0, is_keyframe=True, is_discard=True))
    with pytest.raises(ClipDecodeError, match=r"truncated video .*2 of 50 frames"):
        read(Packet(0, is_keyframe=True), Packet(1), declared_frames=50, video_duration_seconds=5.0)
    with pytest.raises(ClipDecodeError, match=r"video timestamps jump .*by 100.0 s"):
        read(Packet(0, is_keyframe=True), Packet(1), Packet(1001))


def test_a_decoder_that_agrees_confirms_the_table():
    assert agreed(info_of(), table(0, 1, 2), [0, 1, 2]).pts.tolist() == [0, 1, 2]


def test_own_timestamps_count_if_the_table_is_incomplete_and_its_order_otherwise():
    assert agreed(info_of(), table(0, 1, 1, complete=False), [0, 1, 2]).pts.tolist() == [0, 1, 2]
    assert agreed(info_of(), table(0, 1, 2), [1, 0, 2]).pts.tolist() == [0, 1, 2]
    assert agreed(info_of(), table(0, 1, 2), [None, None, None]).pts.tolist() == [0, 1, 2]


def test_only_some_codecs_may_hide_pictures():
    assert agreed(info_of(video_codec="vp8"), table(0, 1, 2, 3), [0, 1, 3]).pts.tolist() == [0, 1, 3]
    with pytest.raises(ClipDecodeError, match="1 frames are not decodable"):
        agreed(info_of(), table(0, 1, 2, 3), [0, 1, 3])


def test_more_pictures_than_listed_without_timestamps_contradict_the_file():
    with pytest.raises(ClipDecodeError, match="timestamps contradict the pictures"):
        agreed(info_of(), table(0, 1), [0, None, None])


def test_a_small_file_whose_last_picture_is_hours_later_does_not_become_hours_of_zeros(tmp_path):
    frames = colour_frames(3, 1, 64, 48)
    write_clip(tmp_path / "hours.mp4", frames=frames, frame_times=[0, 1, 36_000])
    with pytest.raises(ClipDecodeError, match="video timestamps jump"):
        row_of(tmp_path, "hours.mp4")
