from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import boto3
import pyarrow.fs
import pytest
import s3fs
from ray import cloudpickle

from compgan_core.errors import StorageError
from orchestrator.artifacts import s3 as s3_module
from orchestrator.artifacts.store import open_store
from orchestrator.store_server import StoreServer

pytestmark = pytest.mark.integration


def test_wrong_keys_are_named_as_such(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StorageError, match=r"does not accept the keys .*AWS_SECRET_ACCESS_KEY") as caught:
        open_store(s3_url).check()
    assert "not-the-secret" not in str(caught.value)


def test_missing_keys_are_named_as_such(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="no usable credentials; set AWS_ACCESS_KEY_ID"):
        open_store(s3_url).check()


def test_a_profile_that_does_not_exist_is_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="nobody"):
        open_store(s3_url)


def test_a_server_that_is_not_there_is_named(s3: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StorageError, match=f"{endpoint} cannot be reached; check AWS_ENDPOINT_URL"):
        open_store("s3://bucket").check()


def test_a_server_that_does_not_answer_is_given_up(s3: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(s3_module.PREFLIGHT, "read_timeout", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match="did not answer in time"):
            open_store("s3://bucket").check()


def test_a_missing_bucket_is_made_only_when_asked_for(s3: StoreServer) -> None:
    store = open_store(f"s3://missing-{uuid.uuid4().hex[:8]}/x")
    with pytest.raises(StorageError, match="there is no bucket missing-"):
        store.check()
    store.check(create=True)
    store.check(create=True)


def test_a_missing_bucket_is_not_mistaken_for_a_missing_key(s3: StoreServer) -> None:
    with pytest.raises(StorageError, match="there is no bucket nowhere"):
        open_store("s3://nowhere").get_bytes("a")


def test_two_prefixes_of_a_bucket_are_two_stores(s3_url: str) -> None:
    one, two = open_store(f"{s3_url}/one"), open_store(f"{s3_url}/one-more/")
    one.put_bytes("a", b"1")
    assert list(two.keys()) == [] and list(one.keys()) == ["a"]


def test_no_pickle_holds_a_key(s3: StoreServer, s3_url: str) -> None:
    store = open_store(s3_url)
    path, filesystem = store.ray_storage()
    store.put_bytes("a", b"1")
    assert filesystem and filesystem.get_file_info(f"{path}/a").size == 1  # both have used their keys by now
    for dump in (pickle.dumps(store), pickle.dumps(filesystem), cloudpickle.dumps((store, filesystem))):
        assert s3.secret_key.encode() not in dump
        assert s3.access_key.encode() not in dump
        assert s3.endpoint.removeprefix("http://").encode() in dump


def test_store_and_filesystem_work_in_another_process_without_its_endpoint(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url)
    store.put_bytes("a", b"1")
    (tmp_path / "dump").write_bytes(pickle.dumps((store, *store.ray_storage())))
    code = (
        "import pickle, sys; store, path, fs = pickle.load(open(sys.argv[1], 'rb')); store.put_bytes('b', b'22'); "
        "print(fs.open_input_stream(f'{path}/a').read(), fs.get_file_info(f'{path}/b').size)"
    )
    environment = {name: value for name, value in os.environ.items() if "ENDPOINT" not in name}
    command = [sys.executable, "-c", code, str(tmp_path / "dump")]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "b'1' 2"


def test_what_one_client_writes_the_others_read(s3: StoreServer, s3_url: str) -> None:
    """boto3, s3fs, pyarrow's own client and pyarrow over s3fs, all configured by the environment alone."""
    store = open_store(s3_url)
    path, over_s3fs = store.ray_storage()
    bucket, _, prefix = path.partition("/")
    arrow = pyarrow.fs.S3FileSystem(endpoint_override=s3.endpoint)
    assert over_s3fs
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/boto3", Body=b"boto3")
    s3fs.S3FileSystem().pipe(f"{path}/s3fs", b"s3fs")
    for name, filesystem in (("arrow", arrow), ("over_s3fs", over_s3fs)):
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(name.encode())
    for name in ("boto3", "s3fs", "arrow", "over_s3fs"):
        assert store.get_bytes(name) == name.encode()
        assert boto3.client("s3").get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read() == name.encode()
        assert s3fs.S3FileSystem().cat(f"{path}/{name}") == name.encode()
        assert arrow.open_input_stream(f"{path}/{name}").read() == name.encode()
        assert over_s3fs.open_input_stream(f"{path}/{name}").read() == name.encode()
