"""A local S3 server, moto's, in a process of its own: spoken to over real HTTP, nothing is patched.

What it does not do: it checks the signatures of requests only when told to and those of URLs never, answers
at once, has no quota, and forgets everything when it ends. So signed URLs are compared with botocore's, and
refusals, full disks and bad lines come from servers and proxies of the tests' own.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import boto3
import httpx

from tests.support.ports import free_port, wait_for_port

ACCESS_KEY, SECRET_KEY, REGION = "the-access-key", "the-secret-key-of-tests", "eu-central-1"


@dataclass(frozen=True)
class S3Server:
    """`endpoint` is http://127.0.0.1:port."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self, name: str) -> None:
        place = f"<LocationConstraint>{REGION}</LocationConstraint>"
        wish = f"<CreateBucketConfiguration>{place}</CreateBucketConfiguration>"
        httpx.put(f"{self.endpoint}/{name}", content=wish).raise_for_status()

    def url(self, bucket: str, prefix: str = "", *, port: int | None = None) -> str:
        """As STORAGE_URL has it; `port` of a proxy in between."""
        endpoint = f"http://127.0.0.1:{port or self.port}"
        return f"s3://{bucket}/{prefix}?" + urlencode({"endpoint": endpoint, "region": REGION})

    def environment(
        self, bucket: str, prefix: str = "", *, port: int | None = None
    ) -> dict[str, str]:
        """What makes a server use this bucket."""
        return {
            "STORAGE_URL": self.url(bucket, prefix, port=port),
            "STORAGE_ACCESS_KEY": ACCESS_KEY,
            "STORAGE_SECRET_KEY": SECRET_KEY,
        }

    def count_unfinished(self, bucket: str) -> int:
        """Uploads in parts that were neither completed nor aborted."""
        answer = httpx.get(f"{self.endpoint}/{bucket}", params={"uploads": ""})
        return answer.raise_for_status().text.count("<UploadId>")

    def list_keys(self, bucket: str) -> list[str]:
        answer = httpx.get(f"{self.endpoint}/{bucket}", params={"list-type": "2"})
        parts = answer.raise_for_status().text.split("<Key>")[1:]
        return [part.partition("</Key>")[0] for part in parts]

    def read_object(self, bucket: str, key: str) -> bytes:
        """As it lies there."""
        place = {"endpoint_url": self.endpoint, "region_name": REGION}
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        return boto3.client("s3", **place, **keys).get_object(Bucket=bucket, Key=key)["Body"].read()


@contextmanager
def run_s3_server(*, free_calls: int | None = None) -> Iterator[S3Server]:
    """An empty one on a free port. After `free_calls` it checks signatures; None: never."""
    port = free_port()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=Path(tempfile.gettempdir()),
            start_new_session=True,
            # Calls without a region or keys of the environment are none of ours.
            env={
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                **({} if free_calls is None else {"INITIAL_NO_AUTH_ACTION_COUNT": str(free_calls)}),
            },
        )
        try:
            wait_for_port(port, process, timeout_seconds=60)
            yield S3Server(port)
        finally:
            process.kill()
            process.wait()
