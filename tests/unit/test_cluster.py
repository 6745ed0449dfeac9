from __future__ import annotations

import pytest
from pydantic import ValidationError
from ray.train import ScalingConfig

from compgan_core.errors import CapacityError, ConfigurationError
from orchestrator.runtime import cluster
from orchestrator.runtime.cluster import Workers, place, resources_per_worker
from orchestrator.runtime.ray_train import _Sizes

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


def test_where_fewer_workers_will_do_a_run_starts_and_each_asks_for_the_least(monkeypatch) -> None:
    nodes = [{"Resources": resources, "Labels": {}} for resources in CPU_NODES]
    monkeypatch.setattr(cluster, "alive_nodes", lambda: nodes)
    assert resources_per_worker(Workers(num_workers=9, fewer=(3,))) == {"CPU": 1}
    assert resources_per_worker(Workers(num_workers=2, fewer=(1,))) == {"CPU": 4}  # there is room for all
    with pytest.raises(CapacityError, match="asked 12 workers"):
        resources_per_worker(Workers(num_workers=12, fewer=(9,)))


def test_as_many_workers_as_there_is_room_for_but_only_numbers_over_which_batches_divide() -> None:
    policy = _Sizes(ScalingConfig(num_workers=(1, 8), resources_per_worker={"CPU": 1}), (1, 2, 4, 8))
    rooms = {0: 0, 1: 1, 3: 2, 7: 4, 9: 8}
    assert {room: policy._count_possible_workers({"node": {"CPU": float(room)}}) for room in rooms} == rooms
