"""Files that never end, crash or exhaust memory: the decoder is replaced, the clip fails, and the job goes on."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.clips import ClipRef
from pipelines.config import PreprocessConfig
from pipelines.datasets import DATASETS
from pipelines.datasets.ave import AVE
from pipelines.preprocess import preprocess
from pipelines.shards import decoder
from pipelines.shards.decoder import DecodingProcess, Limits, decoding_process
from stgcma.errors import ClipDecodeError
from tests.media import write_ave, write_clip
from tests.paths import ROOT

pytestmark = pytest.mark.slow

CONFIG = PreprocessConfig(dataset="ave", source="nowhere", fbank_specs=("demo",))


class Behaving(AVE):
    """An AVE whose media names say what the decoder does; it runs in the child."""

    def build_rows(self, refs, source, config):
        behaviour = Path(refs[0].media_uri).stem
        if behaviour == "spins":  # in native code that holds Python's lock, like a decoder that seeks forever
            ctypes.PyDLL(None).sleep(1000)
        elif behaviour == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif behaviour == "exits":
            os._exit(3)
        elif behaviour == "allocates":
            np.ones(200 << 20, np.uint8)
        elif behaviour == "nodisk":
            raise OSError(28, "No space left on device", "/full")
        elif behaviour == "surprises":
            raise ZeroDivisionError("surprise")
        elif behaviour == "pid":
            return [os.getpid()]
        return super().build_rows(refs, source, config)


def ref(behaviour):
    return ClipRef(
        dataset="ave",
        clip_id=behaviour,
        split="train",
        video_id=behaviour,
        media_uri=f"{behaviour}.mp4",
        media_bytes=1,
        counts_in_stats=True,
    )


LIMITS = Limits(seconds=60, memory_bytes=64 << 20)


@pytest.fixture(scope="module")
def process():
    """One child for all tests, because each start takes seconds."""
    process = DecodingProcess(LIMITS)
    yield process
    process.close()


@pytest.fixture
def child(process):
    process.limits = LIMITS
    return process


def rows(child, behaviour):
    return child.rows(Behaving(), [ref(behaviour)], "nowhere", CONFIG)


def pid(child):
    return rows(child, "pid")[0]


def test_one_child_serves_many_clips_and_bad_ones_do_not_end_it(child):
    first = pid(child)
    with pytest.raises(ClipDecodeError, match="media file missing"):
        rows(child, "absent")
    with pytest.raises(ClipDecodeError, match=r"unexpected: ZeroDivisionError (?s:.*)surprise"):
        rows(child, "surprises")
    assert pid(child) == first != os.getpid()


def test_native_code_that_holds_the_lock_is_ended_after_the_time_limit(child):
    first = pid(child)
    child.limits = replace(LIMITS, seconds=0.5)
    with pytest.raises(ClipDecodeError, match=r"decoder: clip time limit reached \(spins.mp4: .*0.5 s"):
        rows(child, "spins")
    child.limits = LIMITS
    assert pid(child) != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_memory_is_limited(child):
    with pytest.raises(ClipDecodeError, match=r"decoder: clip memory limit reached \(allocates.mp4"):
        rows(child, "allocates")


def test_a_crash_is_tried_again_and_then_reported(child, monkeypatch):
    monkeypatch.setattr(decoder, "MAX_ATTEMPTS", 2)
    with pytest.raises(ClipDecodeError, match=r"decoder: ended its process 2 times \(crashes.mp4: .*SIGSEGV"):
        rows(child, "crashes")
    monkeypatch.setattr(decoder, "MAX_ATTEMPTS", 1)
    with pytest.raises(ClipDecodeError, match=r"decoder: ended its process 1 times \(exits.mp4: exit code 3"):
        rows(child, "exits")


def test_a_full_disk_is_not_the_clips_fault(child):
    with pytest.raises(OSError, match="No space left") as error:
        rows(child, "nodisk")
    assert (error.value.errno, error.value.filename) == (28, "/full")


def test_an_interrupt_ends_what_is_being_decoded(child):
    decoding = pid(child)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with pytest.raises(KeyboardInterrupt):
        rows(child, "spins")
    with pytest.raises(ProcessLookupError):
        os.kill(decoding, 0)


PARENT = """
from tests.unit.pipelines.shards.test_decoder import *
child = DecodingProcess(Limits())
print(pid(child), flush=True)
rows(child, "spins")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="on other systems, the time limit ends the child")
def test_a_child_ends_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    orphan = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(600):
        try:
            os.kill(orphan, 0)
            if Path(f"/proc/{orphan}/stat").read_text().split()[2] == "Z":  # it has ended, but nobody collects it
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.05)
    pytest.fail("the child outlives its parent")


def test_a_spare_child_is_used_again_only_in_the_same_surroundings(tmp_path, monkeypatch):
    def used():
        with decoding_process(LIMITS) as process:
            return process

    first = used()
    assert used() is first
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    elsewhere = used()
    assert elsewhere is not first
    monkeypatch.chdir(tmp_path)
    assert used() not in (first, elsewhere)


def test_the_job_goes_on_with_the_other_clips(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "ave", Behaving())
    source = write_ave(tmp_path / "ave", [("aaaaaaaaaaa", "train"), ("spins", "train"), ("zzzzzzzzzzz", "train")])
    config = PreprocessConfig(
        dataset="ave",
        source=str(source),
        output=str(tmp_path / "out"),
        fbank_specs=("demo",),
        num_workers=0,
        failure_budget=1.0,
        clip_timeout=8,
    )
    result = preprocess(config)
    assert [(f.clip_id, f.stage, f.reason) for f in result.failures] == [
        ("spins:1", "decoder", "clip time limit reached")
    ]
    assert result.manifest.num_rows("train") == 2


def test_pictures_that_are_too_large_for_the_memory_are_a_failure(tmp_path, child):
    frames = [np.zeros((2160, 3840, 3), np.uint8)] * 6
    write_clip(tmp_path / "huge.mp4", frames=frames, frame_rate=1, video_options={"preset": "ultrafast"})
    with pytest.raises(ClipDecodeError, match="decoder: clip memory limit reached"):
        child.rows(AVE(), [ref("huge")], str(tmp_path), CONFIG)
