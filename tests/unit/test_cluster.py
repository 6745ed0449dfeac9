from __future__ import annotations

import pytest
from pydantic import ValidationError

from compgan_core.errors import CapacityError, ConfigurationError
from orchestrator.runtime.cluster import Workers, place

CPU_NODES = [{"CPU": 4.0, "memory": 1e9}, {"CPU": 4.0}]
GPU_NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}]


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        (CPU_NODES, Workers(), {"CPU": 4}),  # a worker cannot span nodes
        (CPU_NODES, Workers(num_workers=2), {"CPU": 4}),
        (CPU_NODES, Workers(num_workers=3), {"CPU": 2}),  # two here and one there; three would leave one out
        (CPU_NODES, Workers(num_workers=8), {"CPU": 1}),
        (CPU_NODES, Workers(num_workers=2, cpus_per_worker=3), {"CPU": 3}),
        (GPU_NODES, Workers(num_workers=2), {"CPU": 4, "GPU": 1}),
        (GPU_NODES, Workers(num_workers=2, use_gpu=False), {"CPU": 32}),
    ],
)
def test_each_worker_gets_as_many_cpus_as_fit_when_all_get_the_same(nodes, workers, expected) -> None:
    assert place(workers, nodes) == expected


@pytest.mark.parametrize(
    ("nodes", "workers", "message"),
    [
        (CPU_NODES, Workers(num_workers=9), "9 workers x 1 CPU = 9 CPU, the cluster has 8 CPU, at most 4 CPU on"),
        (
            CPU_NODES,
            Workers(cpus_per_worker=5),
            "1 worker x 5 CPU = 5 CPU, the cluster has 8 CPU, at most 4 CPU on",
        ),
        (CPU_NODES[:1], Workers(use_gpu=True), "1 CPU, 1 worker x 1 GPU = 1 GPU, the cluster has 4 CPU, 0 GPU;"),
        ([], Workers(), "1 worker x 1 CPU = 1 CPU, the cluster has 0 CPU"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_arithmetic(nodes, workers, message) -> None:
    with pytest.raises(CapacityError, match=message):
        place(workers, nodes)


def test_zero_stage_3_is_refused_with_a_reason_and_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="use 0, 1 or 2"):
        Workers(zero_stage=3)
    with pytest.raises(ValidationError, match="num_worker"):
        Workers(num_worker=2)
