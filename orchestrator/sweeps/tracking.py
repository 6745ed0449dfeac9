"""The trials of a sweep in MLflow, for those who keep all their runs there: an experiment a sweep, a run a trial."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from compgan_core.errors import ConfigurationError, StorageError
from orchestrator.sweeps.ledger import SweepHead, TrialRecord

Track = Callable[[TrialRecord], None]
log = logging.getLogger(__name__)


def tracker(uri: str, head: SweepHead) -> Track:
    """What writes a trial that has ended to the server, file or database at `uri`, in place of what was there of it.

    Params are the values of the configuration; metrics are `variant.measure` in percent, a step a seed.

    Raises ConfigurationError if MLflow is not installed, StorageError if the place cannot be reached now. If it fails
    later, that is logged, and the sweep goes on.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7 take minutes
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ConfigurationError(
            f"--mlflow needs MLflow ({error}): install compgan-orchestrator[mlflow], or leave the option out"
        ) from error
    base = head.base
    tags = {"sweep": head.id, "dataset": base.dataset, "task": base.task, "preset": base.preset, "metric": head.metric}
    try:
        client = MlflowClient(tracking_uri=uri)
        name = f"{base.task} on {base.dataset}, sweep {head.id[:8]}"
        known = client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else client.create_experiment(name, tags=tags)
    except (MlflowException, OSError) as error:
        raise StorageError(f"MLflow at {uri} cannot be used: {str(error).splitlines()[0]}") from error

    def track(record: TrialRecord) -> None:
        try:
            write(record)
        except (MlflowException, OSError) as error:
            log.warning("trial %s is not in MLflow: %s", record.key, str(error).splitlines()[0])

    def write(record: TrialRecord) -> None:
        for run in client.search_runs([experiment], f"tags.trial = '{record.key}'"):
            client.delete_run(run.info.run_id)  # it ran again, or over more seeds
        run = client.create_run(experiment, run_name=record.key[:8], tags=tags | {"trial": record.key})
        metrics = [
            Metric(f"{variant}.{measure}", value, 0, result.seed)
            for result in record.results
            for variant, measures in result.metrics.items()
            for measure, value in measures.items()
        ]
        seconds = Metric("seconds", record.seconds, 0, 0)
        facts = [RunTag("state", record.state), *([RunTag("failure", record.failure)] if record.failure else [])]
        params = [Param(field, value) for field, value in record.values.items()]
        client.log_batch(run.info.run_id, [*metrics, seconds], params, facts)
        client.set_terminated(run.info.run_id, "FINISHED" if record.state == "finished" else "FAILED")

    return track
