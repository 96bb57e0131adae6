"""Creates buckets that do not exist: ``python infra/create_buckets.py stgcma mlflow``.

Endpoint and credentials come from the usual ``AWS_*`` variables. The script waits for a server that is still starting.
"""

from __future__ import annotations

import sys
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WAIT_SECONDS = 60
REFUSALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
"""Error codes that waiting does not cure."""


def create_buckets(names: list[str], *, wait_seconds: float = WAIT_SECONDS) -> list[str]:
    """Create the missing buckets.

    Args:
        names: Names of buckets.
        wait_seconds: How long to wait for the server.

    Returns:
        The buckets that were created.

    Raises:
        BotoCoreError, ClientError: If the server does not answer in time or refuses the credentials.
    """
    client = boto3.client("s3", config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}))
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            present = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            break
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in REFUSALS:
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    missing = [name for name in names if name not in present]
    for name in missing:
        client.create_bucket(Bucket=name)
    return missing


if __name__ == "__main__":
    created = create_buckets(sys.argv[1:])
    for bucket in sys.argv[1:]:
        print(f"{bucket}: {'created' if bucket in created else 'exists'}")
