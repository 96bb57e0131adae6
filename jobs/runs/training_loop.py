"""``TrainingLoop``, which each worker runs: resume, train, select, evaluate and record.

The first worker writes checkpoints and metrics straight into the run folder. Ray Train starts the workers, and restarts
them if one is lost, but does not handle checkpoints; ``jobs/runs/workers.py`` says why.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from jobs.runs.config import fingerprint
from jobs.runs.evaluation import evaluate_weights, write_evaluation
from jobs.runs.folder import AVERAGED, BEST, FACTS, LAST, RESULT, RunFolder
from jobs.runs.gallery import new_gallery
from jobs.runs.plan import RunPlan
from stgcma.errors import CheckpointError
from stgcma.models.parameters import frozen_sha256, load_trainable_state_dict, trainable_state_dict
from stgcma.training import distributed
from stgcma.training.checkpoint import LoopState, decode, encode_run, load_run
from stgcma.training.engine import Precision, StepReport, WeightAverage, evaluate, place_model, train_one_epoch
from stgcma.training.optim import Schedule, build_optimizer
from stgcma.training.trained_model import decode_model, encode_model

logger = logging.getLogger(__name__)

ROWS_PER_EPOCH = 20
"""Number of rows with the training loss per epoch."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped on request after a step, and a checkpoint of this step was written."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Callbacks for progress in the worker's process. All but ``on_epoch`` and ``stop_requested`` run on the first
    worker only."""

    on_start: Callable[[LoopState, int], None] = lambda state, steps_per_epoch: None
    """At the start of a session, with the state of the run and the steps per epoch."""
    on_step: Callable[[StepReport], None] = lambda report: None
    on_row: Callable[[dict[str, Any]], None] = lambda row: None
    """After a row has been written to ``metrics.jsonl``."""
    on_epoch: Callable[[dict[str, float]], None] = lambda metrics: None
    """At the end of every epoch, on all workers."""
    stop_requested: Callable[[], bool] = lambda: False
    """After every step. True makes the loop write a checkpoint and raise ``Interrupted``."""


class TrainingLoop:
    """One session of a run, from its last checkpoint to its result or to an interruption.

    Args:
        plan: The resolved run, with the loaders of this worker.
        folder: Folder for checkpoints, metrics and the result.
        device: Device of this worker.
        listener: Callbacks for progress.
    """

    def __init__(self, plan: RunPlan, folder: RunFolder, *, device: torch.device, listener: Listener) -> None:
        self.plan, self.config, self.task = plan, plan.config, plan.task
        self.folder, self.device, self.listener = folder, device, listener
        self.is_first = distributed.rank() == 0
        self.session_start = time.monotonic()
        optim = self.config.optim
        self.precision = Precision.choose(optim.mixed_precision, device)
        model = plan.new_model()
        self.info = plan.model_info(frozen_sha256(model) if self.is_first else "")
        self.model = place_model(model, self.config.model, self.precision)
        self.selection_split = plan.selection_split
        self.selection_metric = f"{plan.selection_split}/{plan.task.spec.selection_metric}"
        self.train_loader = plan.train_loader
        self.steps_per_epoch = plan.steps_per_epoch
        self.optimizer = build_optimizer(self.model, optim)
        self.schedule = Schedule.of(optim, self.steps_per_epoch)
        self.scaler = self.precision.new_scaler()
        self.average = WeightAverage()
        self.state = LoopState(fingerprint=fingerprint(self.config), data_digest=plan.manifest.digest, epoch=0, step=0)
        self._window: list[float] = []
        self._window_clips = 0
        self._window_start = time.monotonic()

    def run(self) -> None:
        """Train the remaining epochs, evaluate the selected weights on the test split once, and write the result.

        Raises:
            Interrupted: If the listener requests a stop.
            CheckpointError: If the checkpoint is damaged or belongs to another run.
            RunFailedError: If a loss is not finite.
        """
        self._resume()
        if self.is_first:
            self.listener.on_start(self.state, self.steps_per_epoch)
        while not self._is_trained():
            self._train_epoch()
        self._finish()

    # -- one epoch ---------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        epoch, started = self.state.epoch, time.monotonic()
        self._window, self._window_clips, self._window_start = [], 0, started
        train_one_epoch(
            self.model,
            self.task,
            self.train_loader.epoch(epoch, start_step=self.state.step),
            self.optimizer,
            self.schedule,
            config=self.config.optim,
            epoch=epoch,
            steps_per_epoch=self.steps_per_epoch,
            precision=self.precision,
            scaler=self.scaler,
            start_step=self.state.step,
            on_step=self._after_step,
        )
        self._share_buffers()
        self._add_to_average(epoch)
        trained = time.monotonic()
        batches = self.plan.loaders[self.selection_split].epoch(epoch)
        evaluation = evaluate(self.model, self.task, batches, precision=self.precision)
        metrics = {f"{self.selection_split}/{name}": value for name, value in evaluation.metrics.compute().items()}
        metrics |= {
            "train/epoch_loss": self.state.loss_sum / self.steps_per_epoch,
            "time/train_seconds": trained - started,
            "time/evaluate_seconds": time.monotonic() - trained,
            "system/peak_memory_bytes": float(peak_memory_bytes(self.device)),
        }
        selected = metrics[self.selection_metric]
        is_better = self.state.best_metric is None or selected > self.state.best_metric
        self._advance(epoch=epoch + 1, step=0, loss_sum=0.0)
        if is_better:
            self.state = replace(self.state, best_metric=selected, best_epoch=epoch + 1)
        assert self.state.best_metric is not None, "the first epoch is better than none"
        metrics |= {"best/metric": self.state.best_metric, "best/epoch": float(self.state.best_epoch or 0)}
        self._record("epoch", (epoch + 1) * self.steps_per_epoch, metrics)
        if self.is_first and is_better:
            self._write_weights(BEST, {self.selection_metric: selected}, epoch + 1)
        self._save()
        self.listener.on_epoch(metrics)
        if self.listener.stop_requested() and not self._is_trained():
            raise Interrupted

    def _after_step(self, report: StepReport) -> None:
        done = report.step + 1
        self.state = replace(self.state, step=done, loss_sum=self.state.loss_sum + report.loss)
        self._window.append(report.loss)
        self._window_clips += report.num_clips * distributed.world_size()
        if self.is_first:
            self.listener.on_step(report)
        if done % max(1, self.steps_per_epoch // ROWS_PER_EPOCH) == 0:
            seconds = max(time.monotonic() - self._window_start, 1e-9)
            metrics = {
                "train/loss": sum(self._window) / len(self._window),
                "train/clips_per_second": self._window_clips / seconds,
            }
            metrics |= {f"lr/{group}": rate for group, rate in report.learning_rates.items()}
            self._record("step", report.epoch * self.steps_per_epoch + done, metrics)
            self._window, self._window_clips, self._window_start = [], 0, time.monotonic()
        every = self.config.optim.checkpoint_every_steps
        stop = self.listener.stop_requested()
        if done < self.steps_per_epoch and (stop or (every is not None and done % every == 0)):
            self._advance(step=done)
            self._save()
        if stop and done < self.steps_per_epoch:
            raise Interrupted

    def _add_to_average(self, epoch: int) -> None:
        span = self.config.optim.average_epochs
        if span is not None and span[0] <= epoch + 1 <= span[1]:
            self.average.add(trainable_state_dict(self.model))

    def _share_buffers(self) -> None:
        """Average the running statistics (batch norm of the mask decoder) over the workers."""
        names = {name for name, _ in self.model.named_parameters()}
        own = dict(self.model.named_buffers())
        kept = [n for n in trainable_state_dict(self.model) if n not in names and own[n].is_floating_point()]
        distributed.average_(own[name] for name in kept)

    # -- state -------------------------------------------------------------------------------------------------------

    def _is_trained(self) -> bool:
        """Whether training has ended. It depends on the saved state only, so all workers decide the same."""
        optim, state = self.config.optim, self.state
        if state.epoch >= optim.epochs:
            return True
        if state.epoch == 0 or state.step > 0:
            return False
        patience, limit = optim.patience_epochs, optim.max_minutes
        out_of_patience = patience is not None and state.epoch - (state.best_epoch or 0) >= patience
        return out_of_patience or (limit is not None and state.elapsed_seconds >= 60 * limit)

    def _advance(self, **changes: Any) -> None:
        """Change the state. The elapsed time is the mean over the workers, so that all have the same state."""
        now = time.monotonic()
        elapsed = torch.tensor([self.state.elapsed_seconds + now - self.session_start], dtype=torch.float64)
        self.session_start = now
        elapsed_seconds = float(distributed.total({"elapsed": elapsed})["elapsed"]) / distributed.world_size()
        self.state = replace(
            self.state,
            elapsed_seconds=elapsed_seconds,
            average_count=self.average.count,
            scaler=self.scaler.state_dict() or None,
            **changes,
        )

    def _save(self) -> None:
        if self.is_first:
            self.folder.write(LAST, encode_run(self.model, self.optimizer, self.average, self.state))

    def _write_weights(self, name: str, metrics: dict[str, float], epoch: int) -> None:
        self.folder.write(name, encode_model(self.model, replace(self.info, metrics=metrics, epoch=epoch)))

    def _resume(self) -> None:
        if not self.folder.exists(LAST):
            return
        where = f"{self.folder.uri}/{LAST}"
        tensors, state = decode(self.folder.read(LAST), where)
        for name, is_needed in (("fingerprint", self.state.fingerprint), ("data_digest", self.state.data_digest)):
            if getattr(state, name) != is_needed:
                raise CheckpointError(
                    f"{where} was written with {name} {getattr(state, name)[:12]}, but this run has {is_needed[:12]}. "
                    "Settings or shards changed: give the run another name, or delete its folder to start over."
                )
        load_run(self.model, self.optimizer, self.average, tensors, state)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.state = self._with_best_on_disk(state)

    def _with_best_on_disk(self, state: LoopState) -> LoopState:
        """The state, corrected to agree with the weights of the best epoch on disk.

        A session that is killed after writing ``best`` and before writing ``last`` leaves the weights of an epoch that
        the state does not know. This epoch is trained again; unless it gets better, the weights on disk stay selected.
        """
        if not self.folder.exists(BEST):
            return state
        _, info = decode_model(self.folder.read(BEST), f"{self.folder.uri}/{BEST}")
        if info.epoch <= (state.best_epoch or 0):
            return state
        metric = info.metrics[f"{self.selection_split}/{self.task.spec.selection_metric}"]
        return replace(state, best_epoch=info.epoch, best_metric=metric)

    def _record(self, kind: str, step: int, metrics: dict[str, float]) -> None:
        if self.is_first:
            row = {"kind": kind, "step": step, "epoch": step / self.steps_per_epoch, "time": time.time()}
            row["metrics"] = metrics
            self.folder.append_row(row)
            self.listener.on_row(row)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Evaluate the selected weights and, if the run has any, the averaged weights on the test split."""
        distributed.barrier()
        assert self.state.best_metric is not None, "a trained run has an epoch"
        final = {self.selection_metric: self.state.best_metric}
        final |= self._evaluate_on_test(BEST, "test")
        if self.config.optim.average_epochs is not None and self.state.average_count:
            if self.is_first:
                load_trainable_state_dict(self.model, self.average.mean())
                self._write_weights(AVERAGED, {}, self.state.epoch)
            distributed.barrier()
            final |= self._evaluate_on_test(AVERAGED, "test-averaged")
        # One step after the last epoch, so that the latest value of every metric is the result.
        self._record("final", self.state.epoch * self.steps_per_epoch + 1, final)
        if self.is_first:
            facts = self.folder.read_json(FACTS)
            outcome = {
                "run_name": self.config.run_name,
                "fingerprint": self.state.fingerprint,
                "protocol": self.config.optim.protocol,
                "metrics": final,
                "parameters": facts["parameters"],
                "data_digest": self.state.data_digest,
                "git_commit": facts["sessions"][-1]["git_commit"],
                "best_epoch": self.state.best_epoch,
                "epochs_run": self.state.epoch,
                "stopped_early": self.state.epoch < self.config.optim.epochs,
                "elapsed_seconds": self.state.elapsed_seconds,
                "num_averaged_epochs": self.state.average_count,
            }
            self.folder.write_json(RESULT, outcome)

    def _evaluate_on_test(self, weights: str, label: str) -> dict[str, float]:
        gallery = new_gallery(self.task.spec, self.plan.spec)
        evaluation = evaluate_weights(
            self.model,
            self.task,
            self.folder,
            weights,
            self.config,
            self.plan.loaders["test"].epoch(0),
            precision=self.precision,
            on_batch=gallery.add if gallery else None,
        )
        if self.is_first:
            names = self.plan.manifest.class_names
            pictures = gallery.pictures(title=f"{self.config.run_name}, {label}") if gallery else {}
            write_evaluation(self.folder, label, evaluation, task=self.task.spec, class_names=names, pictures=pictures)
        return {f"{label}/{name}": value for name, value in evaluation.metrics.compute().items()}


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory in bytes: of a GPU its allocated memory, otherwise the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
