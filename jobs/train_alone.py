"""`orch train` in one process, for a machine without Ray, DeepSpeed and boto3, with a directory as the store.

python -m jobs.train_alone --store .local/store --data faces --task ER-FE --shots 5 --preset small --device cuda

The records are those that `orch train` would make, so either takes over where the other stopped. Several such
processes may share a store: each takes the stages that no other one is at, and waits for those that it needs.
It needs torch, numpy, pyarrow, pillow, safetensors, matplotlib and pydantic.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from compgan_core.errors import CompganError
from orchestrator.artifacts.artifacts import Artifacts, open_artifacts
from orchestrator.datasets import find_dataset
from orchestrator.results import outcome
from orchestrator.runtime.alone import AloneRuntime
from orchestrator.study import Worker, make_faces_of, study_of

SAY_EVERY_S = 10.0


class Teller:
    """Progress on stderr, in lines; and how long each stage took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._said_at = 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["kind"] == "stage":
            took = event["seconds"]
            if event["state"] == "done":
                self.seconds[event["fingerprint"]] = took
            self._say(f"{event['name']}: {event['state']}" + (f", {took:.1f} s" if took else ""))
        elif event["kind"] == "log":
            self._say(event["message"])
        elif time.monotonic() - self._said_at >= SAY_EVERY_S:
            figures = " ".join(f"{name}={value:.4g}" for name, value in event["metrics"].items())
            self._say(f"{event['stage']}: {event['step']}/{event['steps']} {figures}".rstrip())

    def _say(self, line: str) -> None:
        self._said_at = time.monotonic()
        print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study; the table as one JSON object is the last line of stdout. The exit codes are those of `orch`."""
    o = _parser().parse_args(arguments)
    try:
        artifacts = open_artifacts(o.store)
        artifacts.store.check()
        artifacts = Artifacts(artifacts.store.patient(), artifacts.cache)  # from here on an outage is a pause
        study = study_of(find_dataset(artifacts.store, o.data), o.preset, o.task, o.shots, o.seed, dict(o.set))
        plan, tell = study.plan(artifacts), Teller()
        runtime = AloneRuntime(artifacts.store, tell, checkpoint_every_s=o.checkpoint_every, device=o.device)
        _leave_when_asked(runtime)
        runtime.recompute = o.recompute
        make_faces_of(plan, artifacts, tell, alone=True)
        Worker(plan.to_train, artifacts)(runtime)
        print(json.dumps(outcome(study, plan, study.records(artifacts), tell.seconds)), flush=True)
    except CompganError as error:
        print(f"train_alone: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return 0


def _leave_when_asked(runtime: AloneRuntime) -> None:
    """At the signal that a spot machine gets before it is taken away. A second one ends the process at once."""

    def leave(*_: object) -> None:
        runtime.leave()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, leave)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train_alone", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="name of an imported dataset")
    parser.add_argument("--task", required=True, help="the recognition task, e.g. ER-FE")
    parser.add_argument("--shots", type=int, default=1, help="labelled images of each novel class")
    parser.add_argument("--preset", default="paper", help="paper, small, tiny or f2ed")
    parser.add_argument("--seed", type=int, default=0, help="names every random draw")
    parser.add_argument(
        "--set", type=_pair, action="append", default=[], metavar="KEY=VALUE", help="override a field of the preset"
    )
    parser.add_argument("--store", required=True, help="a directory")
    parser.add_argument("--device", type=_device, help="cpu, cuda or cuda:1; by default a GPU if there is one")
    parser.add_argument("--recompute", action="store_true", help="save memory in Comp-GAN training; same result")
    parser.add_argument("--checkpoint-every", type=float, default=60.0, help="seconds between checkpoints")
    return parser


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} has no value: write KEY=VALUE")
    return key, value


def _device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        raise argparse.ArgumentTypeError(f"torch cannot use {text!r}: {error}".splitlines()[0]) from None


if __name__ == "__main__":
    sys.exit(main())
