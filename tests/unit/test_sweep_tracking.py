"""Trials in MLflow, in a database of this machine."""

import pytest
from sweep_records import head, trial

from compgan_core.errors import StorageError
from orchestrator.sweeps.tracking import tracker

mlflow = pytest.importorskip("mlflow")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of SQLAlchemy, about MLflow


def runs(uri):
    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if "sweep" in e.tags]
    return experiment, client.search_runs([experiment.experiment_id])


def test_a_trial_becomes_a_run_and_one_that_ran_again_the_same_run(tmp_path):
    uri, swept = f"sqlite:///{tmp_path}/mlflow.db", head("mu.con")
    track = tracker(uri, swept)
    track(trial({"mu.con": "10"}, [30.0]))
    track(trial({"mu.con": "10"}, [30.0, 40.0]))
    tracker(uri, swept)(trial({"mu.con": "20"}, [], state="failed", failure="The loss is not finite."))
    experiment, found = runs(uri)
    assert experiment.tags["sweep"] == swept.id and len(found) == 2
    done, failed = sorted(found, key=lambda run: run.data.params["mu.con"])
    assert (done.info.status, done.data.metrics["exp.novel"]) == ("FINISHED", 40.0)
    history = mlflow.MlflowClient(tracking_uri=uri).get_metric_history(done.info.run_id, "exp.novel")
    assert [(point.step, point.value) for point in history] == [(0, 30.0), (1, 40.0)]
    assert failed.info.status == "FAILED" and failed.data.tags["failure"] == "The loss is not finite."


def test_a_place_that_cannot_be_used_is_told_at_once():
    with pytest.raises(StorageError, match=r"MLflow at nothing://there cannot be used"):
        tracker("nothing://there", head("mu.con"))
