"""The paper's tables and claims, from the file beside this one."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict

from compgan_core.data.splits import Task

TASKS: tuple[str, ...] = get_args(Task)


class PaperTable(BaseModel):
    """Table 4, 5, 6 or 7: accuracies in percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    rows: tuple[str, ...]
    """Variants."""
    shots: tuple[int, ...]
    values: dict[str, dict[str, float | tuple[float, ...]]]
    """Variant -> task -> a figure; in Table 6 one for each number of shots, in Table 7 for each metric."""

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for task in TASKS if task in next(iter(self.values.values())))


class SupervisedTable(BaseModel):
    """Table 2 or 3."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    data: str
    """The format of the data set."""
    quoted: dict[str, float]
    """Competitors."""
    computed: dict[str, str]
    """Which of them are computed here too: row -> its name in the paper."""
    scratch: float
    """Comp-GAN-Cls without pre-training."""
    pretrained: float


class Claim(BaseModel):
    """`better` reads more test images right than each of `worse`, in each of the tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    said: str
    table: int
    better: str
    worse: tuple[str, ...]
    tasks: tuple[str, ...] = TASKS
    shots: tuple[int, int] | None = None
    """Of the better and the worse, where they differ in nothing else."""
    ours: bool = False
    """No claim of the paper, but a control."""


class Paper(BaseModel):
    """All that is compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    supervised: dict[int, SupervisedTable]
    tables: dict[int, PaperTable]
    claims: tuple[Claim, ...]


@cache
def paper() -> Paper:
    """The paper's figures."""
    read = tomllib.loads(Path(__file__).with_name("paper.toml").read_text(encoding="utf-8"))
    tables = {int(number): table for number, table in read["tables"].items()}
    return Paper(
        supervised={number: SupervisedTable(**table) for number, table in tables.items() if "data" in table},
        tables={number: PaperTable(**table) for number, table in tables.items() if "rows" in table},
        claims=tuple(Claim(**claim) for claim in read["claims"]),
    )
