"""Buckets as folders: the address gs://... or s3://... is a path with pathlib's methods.

fsspec's clients (gcsfs, s3fs) do the requests and try again what may pass, see `clients`; universal_pathlib gives the
methods.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from univip_jax.common.clients import explained, register
from univip_jax.common.errors import Misuse, UserError

# Orbax's paths would ask TensorFlow, which reads no s3://, and no gs:// of another server. They choose at their first
# use, be it of a disk.
os.environ.setdefault("EPATH_USE_TF", "false")
SCHEMES = {"gs": "Google Cloud Storage", "s3": "S3"}
_INSTALL = "pip install -r requirements-cloud.txt"
STORE_RETRIES = {"max_retries": 6, "initial_delay": "1s", "max_delay": "16s"}  # TensorStore's: about 45 s


def is_bucket(path: object) -> bool:
    """Whether a path is an address in a bucket."""
    return str(path).partition("://")[0] in SCHEMES and "://" in str(path)


def checked(address: str) -> str:
    """The address without a slash at its end.

    Raises Misuse: no bucket is named, no client for such an address is installed, or none exists.
    """
    scheme, _, rest = address.partition("://")
    if scheme not in SCHEMES:
        raise Misuse(f"{address} is no folder or file of this machine: buckets are gs://NAME/... or s3://NAME/...")
    if not rest.strip("/"):
        raise Misuse(f"{address} names no bucket: give {scheme}://NAME/...")
    _client(scheme)
    return f"{scheme}://{rest.rstrip('/')}"


def open_address(address: object) -> Any:
    """The address as a path; equal addresses give equal paths, which pickle."""
    from upath import UPath

    _client(str(address).partition("://")[0])
    return UPath(str(address))


@functools.cache
def _client(scheme: str) -> None:
    """Raises Misuse: a package is missing."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # 60 s of waiting for gRPC at the first request
    try:
        import upath  # noqa: F401

        register(scheme)
    except ImportError as error:
        raise Misuse(f"{scheme}:// needs the clients of {SCHEMES[scheme]} ({error.name}): {_INSTALL}") from error


def put(path: Any, contents: bytes | Path) -> None:
    """Writes an object by one put: it is seen whole or as it was. A Path is a file of this machine.

    Raises UserError: there is no such bucket, or no right; TransientError: it cannot be reached.
    """
    try:
        if isinstance(contents, Path):
            path.fs.put_file(str(contents), str(path))
        else:
            path.fs.pipe_file(str(path), contents)
    except FileNotFoundError as error:  # no other thing can be missing
        raise UserError(f"{path}: there is no such bucket: check its name, or create it") from error


def near(path: object) -> Path:
    """The folder of this machine that stands for a bucket's folder: for what is only worth a restart's time."""
    import hashlib

    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "univip_jax" / hashlib.sha256(str(path).encode()).hexdigest()[:16]


def store(folder: object, concurrency: int = 32) -> Any:
    """TensorStore's key-value store of a bucket's folder, for many ranges of bytes at a time."""
    import tensorstore

    scheme, _, rest = str(folder).partition("://")
    bucket, _, prefix = rest.partition("/")
    kind = "gcs" if scheme == "gs" else "s3"
    spec = {
        "driver": kind,
        "bucket": bucket,
        "path": f"{prefix}/" if prefix else "",
        "context": {f"{kind}_request_concurrency": {"limit": concurrency}, f"{kind}_request_retries": STORE_RETRIES},
    }
    if scheme == "s3":
        spec["aws_region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            spec["endpoint"] = endpoint
    with explained(scheme, rest):
        return tensorstore.KvStore.open(spec).result()


def of_store(folder: object, ask: Callable[[], Any]) -> Any:
    """What a request to `store(folder)` gives, with errors as `explained` raises them."""
    scheme, _, rest = str(folder).partition("://")
    with explained(scheme, rest):
        return ask()
