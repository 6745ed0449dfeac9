"""An S3 bucket, or anything that speaks its protocol.

Endpoint and region are read from the AWS configuration once, when the store is opened, and travel with it, so that a
worker cannot end up at another store because a variable is missing there. Keys never travel: each process finds its
own in its environment, profile or role.

Large objects belong under keys that are never written twice: some servers (Swift) keep the parts of what is replaced.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED, exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from compgan_core.errors import StorageError
from orchestrator.artifacts.counts import COUNTS
from orchestrator.artifacts.store import KeyMissing, Stored, prove_usable, valid_key

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")
MIB = 1024 * 1024
TRANSFER = TransferConfig(multipart_threshold=32 * MIB, multipart_chunksize=16 * MIB, max_concurrency=8)
CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 60,
    "max_pool_connections": 64,
    "retries": {"mode": "standard", "max_attempts": 5},  # exponential back-off with full jitter, at most 20 s
}
PATIENT_ATTEMPTS = 16  # three minutes or so where nothing answers, less than a collective operation may wait
PREFLIGHT = {"read_timeout": 10, "retries": {"mode": "standard", "max_attempts": 2}}  # somebody waits for the answer
INTERRUPTED = (
    exceptions.IncompleteReadError,
    exceptions.ReadTimeoutError,
    exceptions.ResponseStreamingError,
    HTTPError,
)
WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken")
NO_KEYS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.ProfileNotFound,
    exceptions.TokenRetrievalError,
    exceptions.SSOError,
)


class S3Store:
    """Objects under `s3://bucket/prefix`. Threads may share it."""

    def __init__(self, bucket: str, prefix: str):
        self.bucket, self.prefix = bucket, prefix
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._attempts: int | None = None
        self.endpoint: str | None = None
        self.region: str | None = None
        with self._errors("open"):
            meta = boto3.client("s3", config=Config(signature_version=UNSIGNED)).meta
        if not urlsplit(meta.endpoint_url).netloc.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            self.endpoint = meta.endpoint_url
        if meta.region_name != "aws-global":
            self.region = meta.region_name

    def patient(self) -> S3Store:
        other = copy.copy(self)
        vars(other).pop("_client", None)
        other._attempts = PATIENT_ATTEMPTS
        return other

    def put_bytes(self, key: str, data: bytes, *, create_only: bool = False) -> bool:
        condition = {"IfNoneMatch": "*"} if create_only else {}
        with self._errors("write", key):
            for attempt in range(5):
                try:
                    self._client.put_object(Bucket=self.bucket, Key=self._full(key), Body=data, **condition)
                    return True
                except ClientError as error:
                    status = _status(error)
                    if not create_only or status not in (409, 412):
                        raise
                    if status == 412:
                        return False
                time.sleep(random.random() * 0.1 * 2**attempt)  # 409: another write of this key is under way
        raise StorageError(f"cannot write {key} in {self.url}: other writers were in the way five times")

    def put_file(self, key: str, path: Path) -> None:
        with self._errors("write", key):
            self._client.upload_file(str(path), self.bucket, self._full(key), Config=TRANSFER)

    def get_bytes(self, key: str) -> bytes:
        with self._errors("read", key):
            return self._repeated(
                lambda: self._client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"].read()
            )

    def get_file(self, key: str, path: Path) -> None:
        with self._errors("read", key):  # renames at the end
            self._repeated(lambda: self._client.download_file(self.bucket, self._full(key), str(path), Config=TRANSFER))

    def _repeated(self, read: Callable[[], T]) -> T:
        """botocore repeats requests, but not the reading of a body, nor a request whose refusal arrived in part."""
        for _ in range(self._attempts or 5):
            try:
                return read()
            except INTERRUPTED as error:
                interruption = error
        raise interruption

    def exists(self, key: str) -> bool:
        try:
            with self._errors("read", key):
                self._client.head_object(Bucket=self.bucket, Key=self._full(key))
        except KeyMissing:
            return False
        return True

    def keys(self, prefix: str = "") -> Iterator[str]:
        return (stored.key for stored in self.objects(prefix))

    def objects(self, prefix: str = "") -> Iterator[Stored]:
        cut = len(self._full(""))
        with self._errors("list", prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._full("") + prefix):
                for item in page.get("Contents", ()):
                    yield Stored(item["Key"][cut:], item["Size"], item["LastModified"].timestamp())

    def unfinished(self) -> Iterator[Stored]:
        cut = len(self._full(""))
        with self._errors("list"):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._full("")):
                for item in page.get("Uploads", ()):
                    yield Stored(item["Key"][cut:], 0, item["Initiated"].timestamp(), item["UploadId"])

    def remove(self, stored: Stored) -> None:
        if not stored.upload:
            return self.delete(stored.key)
        place = {"Bucket": self.bucket, "Key": self._full(stored.key), "UploadId": stored.upload}
        with self._errors("delete", stored.key):
            try:
                self._client.abort_multipart_upload(**place)
            except ClientError as error:
                if _code(error) != "NoSuchUpload":
                    raise

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def check(self, *, create: bool = False) -> None:
        with self._errors("list"):
            try:
                self._make_client(PREFLIGHT).list_objects_v2(Bucket=self.bucket, MaxKeys=1)
            except ClientError as error:
                if not (create and _code(error) == "NoSuchBucket"):
                    raise
                self._create_bucket()
        prove_usable(self)

    def ray_storage(self) -> tuple[str, FileSystem | None]:
        from pyarrow.fs import FSSpecHandler, PyFileSystem
        from s3fs import S3FileSystem

        filesystem = S3FileSystem(
            endpoint_url=self.endpoint,
            client_kwargs={"region_name": self.region} if self.region else {},
            config_kwargs=self._config(),
            use_listings_cache=False,  # other processes write too
        )
        return self.url.removeprefix("s3://"), PyFileSystem(FSSpecHandler(filesystem))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_client"}

    @cached_property  # made in the process that uses it, and not pickled: it holds the keys
    def _client(self) -> Any:
        return self._make_client()

    def _make_client(self, overrides: dict[str, Any] | None = None) -> Any:
        config = Config(**self._config() | (overrides or {}))
        session = boto3.Session()  # the default session is not safe to share between threads
        client = session.client("s3", endpoint_url=self.endpoint, region_name=self.region, config=config)
        client.meta.events.register("after-call.s3", _count_retries)
        return client

    def _config(self) -> dict[str, Any]:
        # Outside AWS a bucket is seldom a host name of its own.
        style = {"s3": {"addressing_style": "path"}} if self.endpoint else {}
        retries = {"retries": {"mode": "standard", "max_attempts": self._attempts}} if self._attempts else {}
        return CONFIG | style | retries

    def _create_bucket(self) -> None:
        elsewhere = self.endpoint is None and self.region not in (None, "us-east-1")
        where = {"CreateBucketConfiguration": {"LocationConstraint": self.region}} if elsewhere else {}
        try:
            self._client.create_bucket(Bucket=self.bucket, **where)
        except ClientError as error:
            if _code(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):  # made by another process
                raise

    def _full(self, key: str) -> str:
        assert not key or valid_key(key), key
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextmanager
    def _errors(self, action: str, key: str = "") -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, HTTPError, RetriesExceededError, S3UploadFailedError) as error:
            self._fail(action, key, error)
        except OSError as error:
            raise StorageError(f"cannot {action} {key} in {self.url}: {error.strerror or error}") from error

    def _fail(self, action: str, key: str, error: Exception) -> NoReturn:
        if isinstance(error, S3UploadFailedError):
            cause = error.__context__
        else:
            cause = error.last_exception if isinstance(error, RetriesExceededError) else error
        if action == "read" and isinstance(cause, ClientError) and _code(cause) in ("404", "NoSuchKey"):
            raise KeyMissing(self.url, key) from error
        what = f"{key} in {self.url}" if key else self.url
        raise StorageError(f"cannot {action} {what}: {self._reason(cause)}") from error

    def _reason(self, error: BaseException | None) -> str:
        where = self.endpoint or "AWS"
        if isinstance(error, ClientError):
            return self._refusal(error, where)
        if isinstance(error, NO_KEYS):
            return (
                "no usable credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
                f"or give the machine a role ({error})"
            )
        if isinstance(error, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError):
            return f"{where} did not answer in time; check AWS_ENDPOINT_URL and the network"
        if isinstance(error, exceptions.SSLError):
            return f"no secure connection to {where}; check AWS_CA_BUNDLE and http or https in AWS_ENDPOINT_URL"
        if isinstance(error, exceptions.HTTPClientError | exceptions.EndpointConnectionError):
            return f"{where} cannot be reached; check AWS_ENDPOINT_URL, and that the server runs"
        return str(error)

    def _refusal(self, error: ClientError, where: str) -> str:
        code, status = _code(error), _status(error)
        if code == "NoSuchBucket":
            return f"there is no bucket {self.bucket} at {where}; correct the name, or create it"
        if code in WRONG_KEYS:
            return f"{where} does not accept the keys ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        if code == "RequestTimeTooSkewed":
            return f"the clocks of this machine and of {where} differ by too much; set the clock"
        if status in (401, 403):
            return f"the keys do not allow it at {where} ({code}); ask for read and write access to the bucket"
        return f"{where} answered {status} {code}: {error.response['Error'].get('Message', '')}".rstrip(": ")


def _count_retries(parsed: dict[str, Any], **_: object) -> None:
    COUNTS["store_retries"] += parsed.get("ResponseMetadata", {}).get("RetryAttempts", 0)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
