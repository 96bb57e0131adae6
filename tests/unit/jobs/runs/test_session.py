"""Whole runs in this process: folder, resuming after a SIGKILL, selection, early ends, refused runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from jobs.runs.configfile import dump_run_config, load_run_config
from jobs.runs.evaluation import evaluate_run, read_per_clip
from jobs.runs.folder import AVERAGED, BEST, FAILURE, LAST, RESULT, RunFolder
from jobs.runs.plan import resolve
from jobs.runs.progress import Silent
from jobs.runs.session import train_run
from jobs.runs.training_loop import Interrupted, Listener, TrainingLoop
from jobs.runs.workers import run_here
from stgcma.errors import CheckpointError, ConfigError, RunFailedError, ShardMismatchError
from stgcma.tensor_file import decode_tensors, encode_tensors
from stgcma.training.checkpoint import decode
from stgcma.training.trained_model import METADATA_KEY, decode_model
from tests.factories import write_shards
from tests.paths import ROOT
from tests.unit.jobs.helpers import CLASS_NAMES, tiny_config, tiny_shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("shards"))


def train(config, output, **options):
    return train_run(config, output=str(output), tracking="none", device="cpu", reporter=Silent(), **options)


def weights(folder: RunFolder, name=LAST):
    return decode_tensors(folder.read(name), name)[0]


def assert_equal_weights(first: RunFolder, second: RunFolder, name=LAST):
    one, two = weights(first, name), weights(second, name)
    assert one.keys() == two.keys()
    different = [key for key in one if not torch.equal(one[key], two[key])]
    assert not different


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    """A complete run with all options on, for several tests."""
    output = tmp_path_factory.mktemp("runs")
    config = tiny_config(shards, optim__average_epochs=[1, 2], optim__head_learning_rate=1e-4)
    return config, train(config, output)


def test_result_and_folder(finished):
    config, result = finished
    folder = RunFolder(result.run)
    assert Path(result.run).name == config.run_name
    assert set(folder.storage.list_files(recursive=True)) == {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "result.json",
        "session.lock",
        LAST,
        BEST,
        AVERAGED,
        *(
            f"evaluation/{label}/{name}"
            for label in ("test", "test-averaged")
            for name in ("metrics.json", "per_clip.safetensors", "confusion.png")
        ),
    }
    assert load_run_config(f"{result.run}/config.yaml") == config
    assert result.fingerprint == config.run_name.removeprefix("tiny-")
    assert (result.epochs_run, result.stopped_early, result.num_averaged_epochs) == (2, False, 2)
    assert result.parameters["trainable"] == resolve(config).parameters.trainable
    assert result.data_digest == resolve(config).manifest.digest
    assert len(result.git_commit.removesuffix("-dirty")) == 40
    assert result.protocol == "val"
    assert {"val/accuracy", "test/accuracy", "test-averaged/accuracy"} <= result.metrics.keys()


def test_rows_say_what_happened(finished):
    config, result = finished
    rows = RunFolder(result.run).rows()
    assert [row["kind"] for row in rows] == ["step"] * 3 + ["epoch"] + ["step"] * 3 + ["epoch", "final"]
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4, 5, 6, 6, 7]
    recorded = [(row["step"], key) for row in rows for key in row["metrics"]]
    assert len(set(recorded)) == len(recorded)  # no value overwrites another where they are stored by key and step
    assert {key: rows[-1]["metrics"][key] for key in result.metrics} == result.metrics
    steps = [row["metrics"] for row in rows if row["kind"] == "step"]
    assert steps[0]["lr/adapters"] == 0.0  # the warm-up starts at zero
    assert steps[2]["lr/adapters"] == steps[3]["lr/adapters"] == config.optim.learning_rate
    assert steps[2]["lr/head"] == config.optim.head_learning_rate
    epochs = [row["metrics"] for row in rows if row["kind"] == "epoch"]
    assert epochs[0]["train/epoch_loss"] == pytest.approx(sum(s["train/loss"] for s in steps[:3]) / 3)
    assert result.metrics["val/accuracy"] == max(epoch["val/accuracy"] for epoch in epochs)
    assert epochs[1]["best/epoch"] == result.best_epoch


def test_scores_of_every_clip_add_up_to_the_metric(finished):
    _, result = finished
    clips, scores = read_per_clip(RunFolder(result.run), "test")
    assert len(clips) == 3
    assert scores["correct"].shape == (3, 10)
    assert scores["correct"].double().mean().item() == pytest.approx(result.metrics["test/accuracy"])


def test_averaged_weights_are_the_mean_of_the_epochs(finished, shards, tmp_path):
    config, result = finished
    states = []

    class Recorder(TrainingLoop):
        def _save(self):
            super()._save()
            states.append(
                {k.removeprefix("model/"): v for k, v in weights(self.folder).items() if k.startswith("model/")}
            )

    folder = RunFolder(f"{tmp_path}/{config.run_name}")
    folder.write_json("run.json", RunFolder(result.run).read_json("run.json"))
    Recorder(resolve(config), folder, device=torch.device("cpu"), listener=Listener()).run()
    averaged = weights(RunFolder(result.run), AVERAGED)
    for name, value in averaged.items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2, rtol=1e-6, atol=1e-8)


def test_a_finished_run_returns_at_once(finished):
    config, result = finished
    stamp = os.stat(f"{result.run}/{LAST}").st_mtime_ns
    again = train(config, Path(result.run).parent)
    assert again == replace(result, was_complete=True)
    assert os.stat(f"{result.run}/{LAST}").st_mtime_ns == stamp


def test_the_selected_weights_are_those_evaluated(finished):
    _, result = finished
    evaluation = evaluate_run(result.run, split="test", device="cpu")
    assert evaluation.metrics["accuracy"] == result.metrics["test/accuracy"]
    assert evaluation.num_clips == 3
    assert set(evaluation.classes) <= set(CLASS_NAMES)
    validation = evaluate_run(result.run, split="val", device="cpu")
    assert validation.metrics["accuracy"] == pytest.approx(result.metrics["val/accuracy"])
    averaged = evaluate_run(result.run, split="test", weights="averaged", device="cpu")
    assert averaged.metrics["accuracy"] == result.metrics["test-averaged/accuracy"]
    assert averaged.files[0] == "evaluation/test-averaged/metrics.json"
    with pytest.raises(ConfigError, match=r"--split needs one of train, val, test; got 'testing'"):
        evaluate_run(result.run, split="testing")
    with pytest.raises(ConfigError, match=r"--weights needs one of best, averaged; got 'last'"):
        evaluate_run(result.run, weights="last")
    with pytest.raises(ConfigError, match=rf"No run at .* Runs in it: {Path(result.run).name}"):
        evaluate_run(str(Path(result.run).parent))
    with pytest.raises(ConfigError, match=rf"No run at .*/nothing.*Runs beside it: {Path(result.run).name}"):
        evaluate_run(f"{Path(result.run).parent}/nothing")


def test_confusion_picture_is_a_png_of_the_classes_seen(finished):
    _, result = finished
    picture = Path(result.run, "evaluation/test/confusion.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    table = json.loads(Path(result.run, "evaluation/test/metrics.json").read_text())
    assert table["num_clips"] == 3
    assert "Background" in table["classes"]


def epoch_values(folder: RunFolder):
    """(step, loss, accuracy) of every epoch. An epoch that was repeated after the kill must have the same values."""
    rows = [row for row in folder.rows() if row["kind"] == "epoch"]
    return {(row["step"], row["metrics"]["train/epoch_loss"], row["metrics"]["val/accuracy"]) for row in rows}


@pytest.mark.slow
def test_killed_and_started_again_ends_bit_equal(shards, tmp_path):
    """After a SIGKILL within an epoch, the same command ends with the weights of an uninterrupted run."""
    config = tiny_config(
        shards, optim__epochs=8, optim__batch_size=1, optim__checkpoint_every_steps=1, optim__average_epochs=[2, 8]
    )
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(dump_run_config(config))
    command = [sys.executable, "-m", "jobs.cli", "train", str(recipe), "--output", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([*command, "--tracking", "none", "--device", "cpu"], cwd=ROOT, env=environment)
    killed = RunFolder(str(tmp_path / "killed" / config.run_name))
    deadline = time.monotonic() + 240
    while not (killed.exists(LAST) and decode(killed.read(LAST), LAST)[1].step >= 3):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint after four minutes"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists(RESULT)
    _, state = decode(killed.read(LAST), LAST)
    assert state.epoch < 8

    resumed = train(config, tmp_path / "killed")
    whole = train(config, tmp_path / "whole")
    assert_equal_weights(killed, RunFolder(whole.run))
    assert_equal_weights(killed, RunFolder(whole.run), AVERAGED)
    assert_equal_weights(killed, RunFolder(whole.run), BEST)
    assert resumed.metrics == whole.metrics
    assert epoch_values(killed) == epoch_values(RunFolder(whole.run))
    assert len(killed.read_json("run.json")["sessions"]) == 2


def test_ctrl_c_stops_at_the_next_step_with_a_checkpoint(shards, tmp_path):
    config = tiny_config(shards)
    folder = RunFolder(str(tmp_path / config.run_name))

    class PressAtStepFour(Silent):
        def step(self, report):
            if (report.epoch, report.step) == (1, 0):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train_run(config, output=str(tmp_path), tracking="none", device="cpu", reporter=PressAtStepFour())
    assert folder.read_json(FAILURE)["interrupted"]
    _, state = decode(folder.read(LAST), LAST)
    assert (state.epoch, state.step) == (1, 1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(config, tmp_path)
    assert not folder.exists(FAILURE)
    whole = train(config, tmp_path / "whole")
    assert_equal_weights(folder, RunFolder(whole.run))


def test_a_stop_in_the_last_step_of_an_epoch_ends_after_the_epoch(shards, tmp_path):
    config = tiny_config(shards, optim__batch_size=6, optim__epochs=3)  # one step per epoch
    folder = RunFolder(str(tmp_path / config.run_name))

    class PressInTheFirstEpoch(Silent):
        def step(self, report):
            if report.epoch == 0:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train_run(config, output=str(tmp_path), tracking="none", device="cpu", reporter=PressInTheFirstEpoch())
    _, state = decode(folder.read(LAST), LAST)
    assert (state.epoch, state.step) == (1, 0)


def test_best_weights_of_an_epoch_that_was_not_recorded_stay_consistent(shards, tmp_path):
    """After a kill between ``best`` and ``last``, the repeated epoch is not better, so the weights stay selected."""
    config, folder = interrupted_run(shards, tmp_path)
    whole = RunFolder(train(config, tmp_path / "whole").run)
    tensors, info = decode_model(whole.read(BEST), BEST)
    newer = replace(info, epoch=1, metrics={"val/accuracy": 1.0})
    folder.write(BEST, encode_tensors(tensors, {METADATA_KEY: json.dumps({"format_version": 1, **asdict(newer)})}))
    result = train(config, tmp_path / "runs")
    assert result.best_epoch == 1
    assert result.metrics["val/accuracy"] == 1.0
    assert decode_model(folder.read(BEST), BEST)[1] == newer


def test_weights_of_another_run_are_refused(finished, shards, tmp_path):
    _, result = finished
    other = train(tiny_config(shards, optim__seed=5), tmp_path)
    folder = RunFolder(other.run)
    folder.write(BEST, RunFolder(result.run).read(BEST))
    with pytest.raises(CheckpointError, match=r"holds weights of the run 'tiny-\w+', but the configuration"):
        evaluate_run(other.run)


def test_the_second_ctrl_c_stops_at_once(shards, tmp_path):
    config = tiny_config(shards)

    class PressTwice(Silent):
        def start(self, state, steps_per_epoch):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_here(resolve(config), RunFolder(str(tmp_path / "run")), device=torch.device("cpu"), reporter=PressTwice())


def test_protocol_paper_selects_on_test(shards, tmp_path):
    result = train(tiny_config(shards, optim__protocol="paper"), tmp_path)
    rows = RunFolder(result.run).rows()
    assert not [key for row in rows for key in row["metrics"] if key.startswith("val/")]
    assert result.protocol == "paper"
    assert result.metrics["test/accuracy"] == max(
        row["metrics"]["test/accuracy"] for row in rows if row["kind"] == "epoch"
    )
    assert RunFolder(result.run).read_json("run.json")["tags"]["stgcma.protocol"] == "paper"


def test_patience_and_time_limit_end_a_run_early(shards, tmp_path):
    # With a tiny learning rate, no epoch is better than the first.
    idle = {"optim__epochs": 6, "optim__learning_rate": 1e-12, "optim__min_learning_rate": 0.0}
    patient = train(tiny_config(shards, optim__patience_epochs=2, **idle), tmp_path)
    assert (patient.best_epoch, patient.epochs_run, patient.stopped_early) == (1, 3, True)
    short = train(tiny_config(shards, optim__max_minutes=1e-6, **idle), tmp_path)
    assert (short.epochs_run, short.stopped_early) == (1, True)


def test_single_branch_reads_one_modality(shards, tmp_path):
    result = train(tiny_config(shards, model__adaptation__branches="visual", optim__epochs=1), tmp_path)
    assert "test/accuracy" in result.metrics
    assert not [role for role in result.parameters["by_role"] if role.endswith("_audio")]


def test_nan_fails_the_run_and_is_recorded(shards, tmp_path):
    config = tiny_config(shards, optim__learning_rate=1e30, optim__warmup_epochs=0, optim__batch_size=1)
    with pytest.raises(RunFailedError, match=r"loss is (nan|inf) at epoch 1, step \d of 6"):
        train(config, tmp_path)
    folder = RunFolder(str(tmp_path / config.run_name))
    failure = folder.read_json(FAILURE)
    assert not failure["interrupted"]
    assert "Lower optim.learning_rate" in failure["message"]
    assert not folder.exists(RESULT)


def test_invalid_runs_are_refused_before_anything_is_written(shards, tmp_path):
    with pytest.raises(ShardMismatchError, match=r"No complete shards of 'ave'[^$]*preprocess --dataset ave"):
        train(tiny_config(str(tmp_path / "nowhere")), tmp_path / "runs")
    with pytest.raises(ShardMismatchError, match=r"of spec 'demo' .* reads \[10, 102, 128\]"):
        train(tiny_config(shards, model__backbone="clip_vit_b16"), tmp_path / "runs")
    with pytest.raises(ShardMismatchError, match=r"have 29 classes .* Set model.num_classes=29"):
        train(tiny_config(shards, model__num_classes=7), tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"batch_size.*2.*3"):
        train(tiny_config(shards), tmp_path / "runs", num_workers=3)
    with pytest.raises(ConfigError, match=r"optim.batch_size: 8 exceeds the 6 training clips"):
        train(tiny_config(shards, optim__batch_size=8), tmp_path / "runs")
    write_shards(tmp_path / "no_val", splits={"train": 4, "test": 2})
    with pytest.raises(ShardMismatchError, match="val"):
        train(tiny_config(str(tmp_path / "no_val")), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def interrupted_run(shards, tmp_path):
    config = tiny_config(shards)

    class Stop(Silent):
        def step(self, report):
            if report.step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train_run(config, output=str(tmp_path / "runs"), tracking="none", device="cpu", reporter=Stop())
    return config, RunFolder(str(tmp_path / "runs" / config.run_name))


def test_other_shards_do_not_continue_a_run(shards, tmp_path):
    config, _ = interrupted_run(shards, tmp_path)
    other = tiny_shards(tmp_path / "other", splits={"train": 8, "val": 3, "test": 3})
    moved = replace(config, data=replace(config.data, shards=other))
    with pytest.raises(ConfigError, match=r"was started on shards with digest .* Give the run another name"):
        train(moved, tmp_path / "runs")


def test_one_process_at_a_time_trains_a_run(shards, tmp_path):
    config = tiny_config(shards)

    class StartAgain(Silent):
        def step(self, report):
            train(config, tmp_path)

    with pytest.raises(ConfigError, match=r"Another process is training .*tiny-\w+\. Wait for it"):
        train_run(config, output=str(tmp_path), tracking="none", device="cpu", reporter=StartAgain())


def test_a_damaged_checkpoint_is_named(shards, tmp_path):
    config, folder = interrupted_run(shards, tmp_path)
    data = folder.read(LAST)
    folder.write(LAST, data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"last.safetensors is not a complete safetensors file"):
        train(config, tmp_path / "runs")
    folder.write(LAST, data)
    train(config, tmp_path / "runs")
    assert folder.exists(RESULT)


def test_rows_survive_a_line_cut_off_by_a_crash(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    folder.append_row({"step": 1})
    with open(tmp_path / "run" / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 2, "met')
    folder.append_row({"step": 3})
    assert folder.rows() == [{"step": 1}, {"step": 3}]


def test_a_complete_run_is_refused_on_other_shards(shards, tmp_path):
    config = tiny_config(shards, optim__epochs=1)
    result = train(config, tmp_path / "runs")
    other = tiny_shards(tmp_path / "other", splits={"train": 8, "val": 3, "test": 4})
    with pytest.raises(
        ConfigError, match=rf"with digest {result.data_digest[:12]}, but {other}/ave/.* Give the run another"
    ):
        train(replace(config, data=replace(config.data, shards=other)), tmp_path / "runs")
    gone = replace(config, data=replace(config.data, shards=str(tmp_path / "gone")))
    assert train(gone, tmp_path / "runs").was_complete, "a complete run needs no shards"


def test_an_evaluation_on_other_shards_is_kept_apart(shards, tmp_path):
    result = train(tiny_config(shards, optim__epochs=1), tmp_path / "runs")
    before = Path(result.run, "evaluation/test/metrics.json").read_bytes()
    other = tiny_shards(tmp_path / "other", splits={"train": 8, "val": 3, "test": 4})
    evaluation = evaluate_run(result.run, shards=other, device="cpu")
    assert evaluation.num_clips == 4
    assert evaluation.trained_on == result.data_digest != evaluation.data_digest
    assert evaluation.files[0] == f"evaluation/test-on-{evaluation.data_digest[:12]}/metrics.json"
    assert Path(result.run, evaluation.files[0]).is_file()
    assert Path(result.run, "evaluation/test/metrics.json").read_bytes() == before
    again = evaluate_run(result.run, device="cpu")
    assert again.files[0] == "evaluation/test/metrics.json"
    assert Path(result.run, "evaluation/test/metrics.json").read_bytes() == before
    with pytest.raises(CheckpointError, match=r"has no averaged weights .* optim.average_epochs"):
        evaluate_run(result.run, weights="averaged", device="cpu")
