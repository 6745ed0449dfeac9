"""Metrics in Ray's own Prometheus endpoint, `ray_compgan_*`. cluster/monitoring/ has the rules and dashboards for them.

Ray forgets a gauge that is not set again within two export intervals, and never exports one that is not a number. So a
thread sets them all time and again for as long as the process lives, also while its loop stalls, which is when they
are wanted; and what is not finite is a counter. The loop itself only writes numbers into a dictionary.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Mapping
from typing import Any, NamedTuple

from ray.util import metrics as ray_metrics

from orchestrator.artifacts.counts import COUNTS

SET_EVERY_S = 1.0  # Ray exports every ten seconds by default
WHO = ("run", "task", "stage", "rank")


class Metric(NamedTuple):
    """Its labels besides `WHO`, and what it tells."""

    help: str
    labels: tuple[str, ...] = ()


GAUGES = {
    "compgan_loss": Metric("A term of the losses, mean over the workers", ("term",)),
    "compgan_accuracy": Metric("Share of the batch that a head reads right", ("head",)),
    "compgan_gradient_norm": Metric("2-norm of a network's gradients before clipping", ("network",)),
    "compgan_discriminator_score": Metric("Chance of being real that D gives real faces, and faces made", ("faces",)),
    "compgan_learning_rate": Metric("Base rate of the last update", ("network",)),
    "compgan_step_seconds": Metric("Seconds of a step by part, mean over the last seconds", ("part",)),
    "compgan_images_per_second": Metric("Images, or edits of Comp-GAN, over the last seconds"),
    "compgan_step": Metric("Updates made"),
    "compgan_steps": Metric("Updates of the whole stage"),
    "compgan_last_step_timestamp_seconds": Metric("When the last update was made"),
    "compgan_checkpoint_timestamp_seconds": Metric("When the last checkpoint was acknowledged, or the stage began"),
    "compgan_checkpoint_bytes": Metric("Size of the last checkpoint"),
    "compgan_checkpoint_seconds": Metric("What saving the last checkpoint took"),
    "compgan_trials": Metric("Trials of a sweep by state", ("state",)),
}
COUNTERS = {
    "compgan_stages_total": Metric("Stages that ended, done or found cached", ("state",)),
    "compgan_nonfinite_total": Metric("Steps that were stopped because a loss or a gradient was not finite"),
    "compgan_store_retries_total": Metric("Requests that the store had to be asked again"),
    "compgan_node_cache_hits_total": Metric("Artifacts found on the node"),
    "compgan_node_cache_misses_total": Metric("Artifacts fetched to the node"),
}
PREFIXES = {
    "grad_norm_": ("compgan_gradient_norm", "network"),
    "lr_": ("compgan_learning_rate", "network"),
    "seconds_": ("compgan_step_seconds", "part"),
}
CHECKPOINTED = ("pretrain", "classifier", "compgan", "judge", "finetune", "head")
"""Stages that save checkpoints, whose age is of interest."""


class Exporter:
    """The metrics of this process. Ray must be initialised."""

    def __init__(self, run: str, task: str = "", rank: int | None = None):
        self.who = {"run": run, "task": task, "stage": "", "rank": "" if rank is None else str(rank)}
        self._gauges = {name: _made(ray_metrics.Gauge, name, m) for name, m in GAUGES.items()}
        self._counters = {name: _made(ray_metrics.Counter, name, m) for name, m in COUNTERS.items()}
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._told: Tally[str] = Tally()
        threading.Thread(target=self._set_on, name="metrics", daemon=True).start()

    def set(self, name: str, value: float, **labels: str) -> None:
        """A gauge, until it is set to another value or the stage changes."""
        self._values[name, tuple(labels.items())] = value

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._counters[name].inc(by, {**self.who, **labels})

    def begin(self, stage: str) -> None:
        """From here on this stage is meant, and the gauges of the one before are over."""
        self._values, self.who = {}, {**self.who, "stage": stage}
        if stage in CHECKPOINTED:
            self.set("compgan_checkpoint_timestamp_seconds", time.time())

    def see(self, event: Mapping[str, Any]) -> None:
        """Take in what a worker tells its driver."""
        match event["kind"]:
            case "stage" if event["state"] in ("done", "cached"):
                self.count("compgan_stages_total", stage=event["name"].split()[0], state=event["state"])
            case "progress":
                self.set("compgan_step", event["step"])
                self.set("compgan_steps", event["steps"])
                self.set("compgan_last_step_timestamp_seconds", time.time())
                for name, value in event["metrics"].items():
                    metric, labels = named(name)
                    self.set(metric, value, **labels)
            case "checkpoint":
                self.set("compgan_checkpoint_timestamp_seconds", time.time())
                self.set("compgan_checkpoint_bytes", event["size_bytes"])
                self.set("compgan_checkpoint_seconds", event["seconds"])

    def publish(self) -> None:
        """Hand everything to Ray."""
        for (name, labels), value in list(self._values.items()):
            self._gauges[name].set(float(value), {**self.who, **dict(labels)})
        for name, total in list(COUNTS.items()):
            if total > self._told[name]:
                self.count(f"compgan_{name}_total", total - self._told[name])
            self._told[name] = total

    def _set_on(self) -> None:
        while True:
            self.publish()
            time.sleep(SET_EVERY_S)


def named(metric: str) -> tuple[str, dict[str, str]]:
    """The gauge, and its labels, of a metric as the loops name it."""
    if metric == "images_per_s":
        return "compgan_images_per_second", {}
    for prefix, (name, label) in PREFIXES.items():
        if metric.startswith(prefix):
            return name, {label: metric.removeprefix(prefix)}
    if metric in ("d_real", "d_fake"):
        return "compgan_discriminator_score", {"faces": metric.removeprefix("d_")}
    if metric.endswith("_accuracy"):
        return "compgan_accuracy", {"head": metric.removesuffix("_accuracy")}
    return "compgan_loss", {"term": metric}


def _made(kind: Any, name: str, metric: Metric) -> Any:
    return kind(name, description=metric.help, tag_keys=(*WHO, *metric.labels))
