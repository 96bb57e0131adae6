"""Exact decoding of a few frames of an H.264 stream without decoding the rest.

No other picture refers to a picture with ``nal_ref_idc == 0``, so it is decoded only if it is wanted. A group of
pictures between two IDR pictures refers to nothing outside it, so it is decoded only if it holds a wanted frame, and
only up to the last one. The result has the same bits as decoding everything. Other codecs, and streams that are not
clearly of this kind, are left to the sequential decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import av
import numpy as np

_PIXEL_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
"""The formats with 8 bits per sample, which all decoders turn into the same RGB."""
_IDR = 5
_FIRST_SLICE, _LAST_SLICE = 1, 5
_AVCC = 1
_NO_REFERENCE = 0


class NotSelectable(Exception):
    """The stream must be decoded from the beginning."""


class Packets:
    """The packets of a video stream in decoding order, and which of them other packets need.

    Raises:
        NotSelectable: If the stream is not 8-bit H.264 with length-prefixed units, has edits, damage or repeated
            timestamps, or does not begin with an IDR picture.
    """

    def __init__(self, stream: av.VideoStream, packets: Iterable[av.Packet]) -> None:
        header = stream.codec_context.extradata
        if stream.codec_context.name != "h264" or not header or header[0] != _AVCC:
            raise NotSelectable("not length-prefixed H.264")
        if stream.codec_context.pix_fmt not in _PIXEL_FORMATS:
            raise NotSelectable("more than 8 bits per sample")
        prefix_size = (header[4] & 3) + 1
        self.packets: list[av.Packet] = []
        self.is_idr: list[bool] = []
        self.is_reference: list[bool] = []
        for packet in packets:
            if packet.size == 0:
                continue
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                raise NotSelectable("edited or damaged")
            units = list(_units(memoryview(packet), prefix_size))
            if not units:
                raise NotSelectable("a packet without a picture")
            self.packets.append(packet)
            self.is_idr.append(any(kind == _IDR for kind, _ in units))
            self.is_reference.append(any(importance != _NO_REFERENCE for _, importance in units))
        self.pts = np.array([packet.pts for packet in self.packets], dtype=np.int64)
        """Timestamps in decoding order, in units of the stream's time base."""
        if not self.packets or not self.is_idr[0] or len(np.unique(self.pts)) < len(self.pts):
            raise NotSelectable("no IDR picture first, or repeated timestamps")

    def needed(self, wanted: set[int]) -> Iterator[list[av.Packet]]:
        """For each group of pictures with a wanted timestamp: the packets to decode, in order."""
        starts = [index for index, idr in enumerate(self.is_idr) if idr]
        for start, end in zip(starts, [*starts[1:], len(self.packets)], strict=True):
            hits = [index for index in range(start, end) if int(self.pts[index]) in wanted]
            if hits:
                yield [
                    self.packets[index]
                    for index in range(start, hits[-1] + 1)
                    if self.is_reference[index] or int(self.pts[index]) in wanted
                ]


def decode_wanted(stream: av.VideoStream, packets: Packets, wanted: Sequence[int]) -> Iterator[av.VideoFrame]:
    """The frames with these timestamps, group by group.

    Raises:
        av.error.FFmpegError: If a needed packet is damaged.
    """
    remaining = set(wanted)
    context = stream.codec_context
    context.thread_count, stream.thread_type = 1, "NONE"
    for group in packets.needed(remaining):
        for packet in [*group, None]:
            for frame in context.decode(packet):
                if frame.pts in remaining:
                    remaining.remove(frame.pts)
                    yield frame
        context.flush_buffers()


def _units(data: memoryview, prefix_size: int) -> Iterator[tuple[int, int]]:
    """(type, ``nal_ref_idc``) of the picture slices of one packet."""
    position = 0
    while position + prefix_size < len(data):
        size = int.from_bytes(data[position : position + prefix_size], "big")
        first = data[position + prefix_size]
        if first & 0x80 or size == 0 or position + prefix_size + size > len(data):
            raise NotSelectable("a malformed packet")
        if _FIRST_SLICE <= first & 0x1F <= _LAST_SLICE:
            yield first & 0x1F, first >> 5 & 3
        position += prefix_size + size
