"""What several commands share: their options, and how a store is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.artifacts.artifacts import Artifacts

DEFAULT_STORE = ".local/store"

Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="COMPGAN_STORE",
        help="Where everything is kept: s3://bucket/prefix or a directory. "
        "Endpoint and keys of a bucket come from the usual AWS variables, profiles or roles.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the facts as one JSON object, the last line of stdout; progress on stderr."),
]
Data = Annotated[str, typer.Option("--data", help="Name of an imported dataset; `orch data ls` lists them.")]
Task = Annotated[str, typer.Option("--task", help="The recognition task, e.g. ER-FE.")]
Shots = Annotated[int, typer.Option("--shots", min=1, help="Labelled images of each novel class.")]
Preset = Annotated[
    str,
    typer.Option("--preset", help="Sizes and schedule: paper, small or tiny; f2ed is paper with F2ED's own counts."),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Training workers, each with a GPU where there is one.")]
MinWorkers = Annotated[
    int | None,
    typer.Option(
        "--min-workers",
        min=1,
        help="While nodes are lost or have not come yet, train with fewer workers, but no fewer than these.",
    ),
]
Gpu = Annotated[
    bool | None,
    typer.Option("--gpu/--cpu", help="A GPU for each worker, or none; without it, a GPU if the cluster has any now."),
]
Zero = Annotated[int, typer.Option("--zero", help="DeepSpeed ZeRO stage: 0, 1 or 2.")]
Recompute = Annotated[
    bool,
    typer.Option("--recompute", help="Save memory in Comp-GAN training: compute activations twice. Same result."),
]
Seed = Annotated[int, typer.Option("--seed", help="Names every random draw.")]
CheckpointEvery = Annotated[
    float, typer.Option("--checkpoint-every", min=0.1, help="Seconds between the checkpoints of a training stage.")
]
Run = Annotated[
    str | None,
    typer.Argument(help="The id of a run, or its beginning; without it, the newest. `orch ls` lists them."),
]
Price = Annotated[
    float | None,
    typer.Option("--price", min=0, help="What the cluster costs an hour, for watchers to see what a run has cost."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one field of the preset; may be given many times."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        help="The Ray cluster: http://host:8265 (its dashboard) makes the command a job there; "
        "auto or 10.0.0.1:6379 joins it from one of its nodes. Without it, a Ray starts here.",
    ),
]


def open_artifacts(store: str) -> Artifacts:
    """The store at a URL, with this machine's cache."""
    from orchestrator.artifacts.artifacts import open_artifacts

    return open_artifacts(store)


def pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    """KEY=VALUE texts, as a mapping."""
    from compgan_core.errors import ConfigurationError

    found = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"{option} {text!r} has no value: write {option} KEY=VALUE")
        found[key] = value
    return found
