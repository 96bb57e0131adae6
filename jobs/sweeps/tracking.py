"""Records a sweep in MLflow: a parent run with one child run per trial, in an experiment named after the sweep.

A restarted or extended sweep finds its parent run by a tag and adds to it. MLflow never stops a sweep: if the server
does not answer, the trials run without a parent, and the next start of the sweep attaches them.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.runs.folder import FACTS, RunFolder
from jobs.runs.tracking import (
    DISABLED,
    TABLE_VIEW,
    TrackingUnavailableError,
    default_tracking_uri,
    experiment_id,
    explained,
    open_client,
    sync_run,
    tracked_runs,
)
from jobs.tables.trials import TrialStatus, find_runs, write_status

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"
"""Tag with which MLflow nests runs."""

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as a description, in Markdown."""


class SweepTracking:
    """The parent run of one sweep.

    Args:
        name: Name of the sweep and of the experiment.
        metrics: Columns of the table.
        output: Folder of the runs.
        tracking: MLflow URI; None: SQLite in ``output``; ``none``: no MLflow.
        sweep_id: Identifies this sweep in this ``output``.
    """

    def __init__(self, name: str, metrics: tuple[str, ...], output: str, tracking: str | None, sweep_id: str) -> None:
        self.name, self.metrics, self.output, self.sweep_id = name, metrics, output, sweep_id
        self.uri = default_tracking_uri(output) if tracking is None else tracking
        self.warnings: list[str] = []
        self._client: MlflowClient | None = None
        self._parent = ""

    def open(self) -> dict[str, str]:
        """Find or create the parent run.

        Returns:
            The tag that makes a trial a child of the parent; empty if MLflow is off or does not answer.
        """
        if self.uri == DISABLED:
            return {}
        try:
            with self._explained():
                client = self._client = open_client(self.uri)
                experiment = experiment_id(client, self.uri, self.name)
                found = client.search_runs([experiment], f"tags.`stgcma.sweep_id` = '{self.sweep_id}'", max_results=1)
                if found:
                    self._parent = found[0].info.run_id
                    client.update_run(self._parent, status="RUNNING")
                else:
                    tags = {
                        "stgcma.sweep_id": self.sweep_id,
                        "mlflow.user": getpass.getuser(),
                        "mlflow.source.type": "LOCAL",
                        "mlflow.source.name": f"stgcma-jobs sweep {self.name}",
                    }
                    view = table_view(self.name, self.metrics)
                    client.set_experiment_tag(experiment, TABLE_VIEW, view)
                    self._parent = client.create_run(experiment, run_name=f"sweep {self.name}", tags=tags).info.run_id
        except TrackingUnavailableError as error:
            self.warnings.append(str(error))
            return {}
        return {PARENT: self._parent}

    def close(self, statuses: Iterable[TrialStatus], note: str) -> None:
        """Send what the server does not have, attach trials without a parent, and end the parent run.

        Args:
            statuses: The trials.
            note: Description of the parent run, in Markdown.
        """
        statuses = list(statuses)
        if self.uri == DISABLED or (not self._parent and not self.open()):
            return
        client = self._client
        assert client is not None
        try:
            with self._explained():
                runs = find_runs(self.output)
                for status in statuses:
                    if status.state == "done" and status.fingerprint in runs:
                        self._attach(client, RunFolder(f"{self.output.rstrip('/')}/{runs[status.fingerprint]}"), status)
                client.set_tag(self._parent, NOTE, note)
                failed = any(status.state == "failed" for status in statuses)
                complete = all(status.state == "done" for status in statuses)
                client.set_terminated(self._parent, "FAILED" if failed else "FINISHED" if complete else "KILLED")
        except TrackingUnavailableError as error:
            self.warnings.append(str(error))

    def _attach(self, client: MlflowClient, folder: RunFolder, status: TrialStatus) -> None:
        """Send what is missing of a trial's run and make it a child. Runs of other experiments are left alone."""
        if not folder.exists(FACTS) or folder.read_json(FACTS)["experiment"] != self.name:
            return
        known = tracked_runs(folder).get(self.uri)
        if status.notes or known is None or not known.is_complete:
            run_id = sync_run(folder, self.uri).run_id
            write_status(folder, replace(status, notes=()))
        else:
            run_id = known.run_id
        if PARENT not in client.get_run(run_id).data.tags:
            client.set_tag(run_id, PARENT, self._parent)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.uri, "The trials are unaffected. Start the same sweep again to send what is missing.")


def table_view(name: str, metrics: tuple[str, ...]) -> str:
    """A saved view for MLflow that shows a sweep as its table: one line per row with means over seeds."""
    columns = [column for metric in metrics for column in (metric, f"paper/{metric}")]
    columns += [f"{prefix}params/{kind}_millions" for kind in ("trainable", "total") for prefix in ("", "paper/")]
    state = {
        "searchFilter": "",
        "orderByKey": "metrics.`sweep/row`",
        "orderByAsc": True,
        "selectedColumns": [
            *(f"metrics.`{column}`" for column in columns),
            "params.`optim.seed`",
            "tags.`stgcma.protocol`",
        ],
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "stgcma.row"}]},
    }
    saved = 1_600_000_000_000  # in milliseconds; only displayed
    return json.dumps({"name": f"Table: {name}", "createdAt": saved, "updatedAt": saved, "state": json.dumps(state)})
