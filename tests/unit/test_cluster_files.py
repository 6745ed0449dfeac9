from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from compgan_core.errors import CapacityError, ConfigurationError
from orchestrator.cluster_cost import Prices, group_costs, stage_costs
from orchestrator.cluster_files import ClusterFile, problems, quantity, read
from orchestrator.runtime.idle import idle_since

CLUSTER = Path(__file__).parents[2] / "cluster"
PRICES = CLUSTER / "prices.example.yaml"
# What each can hold.
WORKERS = {
    "aws-1gpu": 1,
    "aws-8gpu": 8,
    "aws-spot-many": 16,
    "fake-nodes": 3,
    "gcp-many": 16,
    "local": 1,
    "on-prem": 6,
    "raycluster": 8,
    "rayjob": 8,
}
F2ED = 219_719


def changed(name: str, old: str, new: str, tmp_path: Path) -> ClusterFile:
    """A file of cluster/ with every `old` in it replaced."""
    text = (CLUSTER / f"{name}.yaml").read_text()
    assert old in text
    path = tmp_path / f"{name}.yaml"
    path.write_text(text.replace(old, new))
    return read(path)


def test_every_file_of_the_directory_is_known_here() -> None:
    assert {path.stem for path in CLUSTER.glob("*.yaml")} == {*WORKERS, "prices.example"}


@pytest.mark.parametrize("name", WORKERS)
def test_our_own_files_are_fit_for_as_many_workers_as_they_have_gpus_and_for_no_more(name: str) -> None:
    file = read(CLUSTER / f"{name}.yaml")
    assert problems(file, WORKERS[name], F2ED) == []
    (problem,) = problems(file, WORKERS[name] + 1, F2ED)
    assert f"{WORKERS[name] + 1} workers do not fit" in problem


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("aws-8gpu", "max_workers: 1\nidle", "max_worker: 1\nidle", "its top: .*max_worker"),
        ("aws-8gpu", "CPU: 192", "CPU: many", "available_node_types.gpus.resources.CPU"),
        ("on-prem", "type: local", "typ: local", "provider: "),
        ("raycluster", "groupName", "groupname", "spec.workerGroupSpecs.0"),
        ("raycluster", "volumeMounts", "volumeMount", "containers.0"),
        ("raycluster", "mode: token", "mode: tokens", "spec.authOptions.mode"),
        ("rayjob", "maxReplicas: 8", "maxReplicas: '8'", "rayClusterSpec.workerGroupSpecs.0.maxReplicas"),
        ("rayjob", "shutdownAfterJobFinishes", "shutdownAfterJobFinished", "spec: "),
        ("raycluster", "{mode: token}", "{mode: token, secret: mine}", "spec.authOptions: "),
    ],
)
def test_a_wrong_form_is_refused_with_its_place(name: str, old: str, new: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"has a wrong form at .*{where}"):
        changed(name, old, new, tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is not YAML"),
        ("a: 1", "holds 0 clusters"),
        ("provider: {type: aws}\n---\nprovider: {type: aws}", "holds 2 clusters"),
        ("!!python/object/apply:os.system [echo]", "is not YAML"),
        ("cluster_name: x\nprovider: {type: aws}\nhead_node_type: h", "names the head_node_type 'h'"),
    ],
)
def test_what_is_no_cluster_file_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=sentence):
        read(tmp_path / "x.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(tmp_path / "y.yaml")


GROUP = "  security_group: {IpPermissions: [{FromPort: 0, ToPort: 65535, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("aws-8gpu", "RAY_AUTH_MODE=token ray start --head", "ray start --head", "before `ray start` of the head"),
        ("aws-8gpu", "RAY_AUTH_MODE=token ray start --add", "ray start --add", "before `ray start` of the worker"),
        ("local", "RAY_AUTH_MODE=token ", "", "before `ray start` of the head"),
        ("aws-1gpu", "--dashboard-host=127.0.0.1", "--dashboard-host 0.0.0.0", "dashboard listens on 0.0.0.0"),
        ("on-prem", "  ~/.ray/auth_token: ~/.ray/auth_token", "  ~/x: ~/x", "machines get no token"),
        ("aws-1gpu", "  type: aws\n", f"  type: aws\n{GROUP}", "opens more than port 22"),
        ("aws-1gpu", "ray stop", "export AWS_SECRET_ACCESS_KEY=abcdefghijklmnopqrst", "holds a secret key"),
        ("aws-1gpu", "compgan-1gpu", "AKIAABCDEFGHIJKLMNOP", "holds a secret key"),
        ("raycluster", "mode: token", "mode: disabled", "run code on it"),
        ("raycluster", "serviceType: ClusterIP", "serviceType: LoadBalancer", "dashboard is open"),
        ("gcp-many", "idle_timeout_minutes: 10", "idle_timeout_minutes: 1000", "idle machines stay"),
        ("aws-1gpu", "orch cluster idle", "true", "head stays for ever"),
        ("raycluster", "idleTimeoutSeconds: 600", "idleTimeoutSeconds: 100000", "idle pods stay"),
        ("rayjob", "Finishes: true", "Finishes: false", "cluster stays after the job"),
        ("aws-8gpu", "IamInstanceProfile: {Name: compgan}", "EbsOptimized: true", "machines of gpus have no role"),
        ("gcp-many", "serviceAccounts", "labels", "machines of head have no role"),
        ("raycluster", "serviceAccountName: compgan", "schedulerName: x", "pods of head have no role"),
        ("raycluster", "mountPath: /dev/shm", "mountPath: /shm", "container of head has 0.062 GiB of /dev/shm"),
        ("raycluster", "sizeLimit: 8Gi", "sizeLimit: 512Mi", "container of gpu has 0.5 GiB of /dev/shm"),
        ("aws-1gpu", "compgan\n\nfile", "compgan\n  run_options: [--shm-size=512m]\n\nfile", "has 0.5 GiB of /dev/shm"),
        ("aws-1gpu", "VolumeSize: 200", "VolumeSize: 50", "has 50 GiB of disk and 53 are wanted, 13 of them"),
        ("raycluster", "ephemeral-storage: 100Gi", "ephemeral-storage: 30Gi", "head has 30 GiB of disk and 40"),
        ("aws-8gpu", "687194767360", "34359738368", "gpus has 32 GiB of memory and 48"),
        ("on-prem", "metadata:\n  machine:", "metadata:\n  unknown:", "does not say what head and workers has"),
        ("aws-8gpu", "{CPU: 192, GPU: 8, memory: 687194767360}", "{}", "does not say what gpus has"),
    ],
)
def test_what_would_go_wrong_is_found(name: str, old: str, new: str, sentence: str, tmp_path: Path) -> None:
    found = problems(changed(name, old, new, tmp_path), 1, F2ED)
    assert any(sentence in problem for problem in found), found


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2), (4, 4), ("500m", 0.5), ("64Gi", 64 * 2**30), ("1k", 1000), ("1.5M", 1.5e6)]
)
def test_a_quantity_is_read_as_kubernetes_does(text: object, value: float) -> None:
    assert quantity(text) == value


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no quantity"):
        quantity("a lot")


def test_a_cluster_costs_its_machines_and_a_stage_its_seconds() -> None:
    file, prices = read(CLUSTER / "aws-spot-many.yaml"), Prices.read(PRICES)
    head, spot = group_costs(file, prices, 4)
    assert (head.count, head.per_hour) == (1, pytest.approx(0.20))
    assert (spot.machine, spot.count, spot.gpus, spot.per_hour) == ("g5.2xlarge spot", 4, 4, pytest.approx(2.0))
    assert [group.count for group in group_costs(file, prices, None)] == [1, 16]
    assert [group.count for group in group_costs(read(CLUSTER / "aws-8gpu.yaml"), prices, 3)] == [1, 1]
    assert [group.count for group in group_costs(read(CLUSTER / "on-prem.yaml"), prices, 1)] == [1, 2]
    records = [SimpleNamespace(stage="compgan", seconds=s) for s in (1800, 5400)]
    (stage,) = stage_costs(records, per_hour=2.2)
    assert (stage.runs, stage.mean_seconds, stage.each) == (2, 3600, pytest.approx(2.2))


def test_a_price_that_is_missing_or_absurd_is_refused(tmp_path: Path) -> None:
    file = read(CLUSTER / "gcp-many.yaml")
    with pytest.raises(ConfigurationError, match="none for 'e2-standard-4' .of head.; did you mean e2-standard-8"):
        group_costs(file, Prices(currency="EUR", per_hour={"e2-standard-8": 1.0, "g2-standard-12": 1.0}), 1)
    with pytest.raises(CapacityError, match="at most 16 GPUs"):
        group_costs(file, Prices.read(PRICES), 17)
    for text, sentence in [
        ("currency: EUR\nper_hour: {a: -1}", "the price -1.0 for a"),
        ("currency: EUR\nper_hour: {a: .nan}", "the price nan for a"),
        ("currency: EUR\nper_hour: {a: lots}", "per_hour.a"),
        ("currency: EUR", "per_hour"),
    ]:
        (tmp_path / "prices.yaml").write_text(text)
        with pytest.raises(ConfigurationError, match=sentence):
            Prices.read(tmp_path / "prices.yaml")


def test_a_cluster_is_idle_since_its_last_job_ended_or_since_its_machine_started() -> None:
    def job(status: str, end_s: float | None) -> SimpleNamespace:
        return SimpleNamespace(status=status, end_time=end_s and end_s * 1000)

    assert idle_since([], start=1000, now=1600) == 10
    assert idle_since([job("SUCCEEDED", 1300), job("FAILED", 1540), job("STOPPED", None)], start=1000, now=1600) == 1
    assert idle_since([job("SUCCEEDED", 1300), job("RUNNING", None)], start=1000, now=1600) == 0
    assert idle_since([job("PENDING", None)], start=1000, now=1600) == 0


def test_newer_fields_of_kuberay_are_known_and_a_token_is_its_default(tmp_path: Path) -> None:
    new = "authOptions: {secretName: mine}\n  networkPolicy: {mode: DenyAllIngress}\n  tlsOptions: {enabled: true}"
    file = changed("raycluster", "authOptions: {mode: token}", new, tmp_path)
    assert problems(file, 8, F2ED) == []
    (problem,) = problems(changed("raycluster", "authOptions: {mode: token}", "suspend: false", tmp_path), 8, F2ED)
    assert "whoever reaches it can run code on it" in problem
