"""Who has no token is refused at every port of a Ray that `orch` started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import pytest
import ray
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc, node_manager_pb2, node_manager_pb2_grpc

pytestmark = pytest.mark.integration
TOKENS = {"none": [], "wrong": [("authorization", f"Bearer {'0' * 64}")]}


def right() -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {os.environ['RAY_AUTH_TOKEN']}")]


@pytest.mark.parametrize("token", TOKENS)
def test_the_control_store_and_the_node_manager_refuse_a_client_without_the_token(
    ray_cluster: None, token: str
) -> None:
    (node,) = ray.nodes()
    ask = gcs_service_pb2.GetClusterIdRequest()
    with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
        gcs = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        assert gcs.GetClusterId(ask, metadata=right()).cluster_id
        with pytest.raises(grpc.RpcError) as refused:
            gcs.GetClusterId(ask, metadata=TOKENS[token])
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    with grpc.insecure_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        manager = node_manager_pb2_grpc.NodeManagerServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            manager.GetNodeStats(node_manager_pb2.GetNodeStatsRequest(), metadata=TOKENS[token])
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_neither_the_token_nor_the_keys_of_the_store_stand_in_a_process_list(ray_cluster: None, s3) -> None:
    assert os.environ["RAY_AUTH_TOKEN"] and s3.secret_key
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert any("raylet" in line for line in lines)
    assert not any(os.environ["RAY_AUTH_TOKEN"] in line or s3.secret_key in line for line in lines)


def test_a_ray_of_our_own_makes_a_token_that_only_its_user_can_read(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    code = "from orchestrator.runtime.cluster import _provide_token as f; f(); f()"
    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, check=True)
    (path,) = (tmp_path / ".ray").iterdir()
    assert path.stat().st_mode & 0o077 == 0 and (tmp_path / ".ray").stat().st_mode & 0o077 == 0
    assert path.name == "auth_token" and len(path.read_text()) == 64
