"""fsspec's clients of buckets, with errors of one line, so that no reader takes a network that is gone for damage."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from univip_jax.common.errors import TransientError, UserError

_ATTEMPTS = 7  # of a request to S3, with growing pauses: 25 s, and s3fs repeats that. gcsfs makes 6, about 35 s
_URL = re.compile(r".*/b/([^/]+)/o(/?)([^?]*).*")  # of an upload, which names the bucket, and of a download
_LISTED = "kind,nextPageToken,prefixes,items(name,size,updated)"  # of objects: all they have fills the memory
_RIGHTS = {
    "gs": "run gcloud auth application-default login, or give the service account the roles Storage Object User and "
    "Storage Legacy Bucket Reader",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give their owner s3:GetObject, PutObject, DeleteObject "
    "and ListBucket",
}


def register(scheme: str) -> None:
    """Makes fsspec, and Orbax's paths with it, use our class for `gs` or `s3`. Raises ImportError."""
    import fsspec

    kind = _gcs() if scheme == "gs" else _s3()
    for name in ("gs", "gcs") if scheme == "gs" else ("s3",):
        fsspec.register_implementation(name, kind, clobber=True)


class _Exact:
    """Listings are never remembered, since others write too; and a server that fails does not say that there is none.

    fsspec's `exists` is False for any error.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **self._defaults() | {"use_listings_cache": False} | kwargs)

    async def _type(self, path: str) -> str | None:
        try:
            return (await self._info(path))["type"]
        except FileNotFoundError:
            return None

    async def _exists(self, path: str, **_: Any) -> bool:
        return await self._type(path) is not None

    async def _isfile(self, path: str) -> bool:
        return await self._type(path) == "file"

    async def _isdir(self, path: str) -> bool:
        return await self._type(path) == "directory"


def _gcs() -> type:
    from aiohttp import ClientTimeout
    from gcsfs.core import GCSFileSystem

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the traceback of what it raises

    class Gcs(_Exact, GCSFileSystem):
        """gcsfs, with errors of one line."""

        @staticmethod
        def _defaults() -> dict[str, Any]:
            # Without one, a network that swallows packets is waited for without end. 50 MB are sent at once.
            return {"requests_timeout": ClientTimeout(total=None, sock_connect=30, sock_read=180)}

        async def _call(self, method: str, path: str, *args: str, **kwargs: Any) -> Any:
            with explained("gs", "/".join(map(str, args)) or unquote(_URL.sub(r"\1\2\3", path))):
                return await super()._call(method, path, *args, **kwargs)

        async def _call_list_objects(self, bucket: str, **kwargs: Any) -> Any:
            return await super()._call_list_objects(bucket, **kwargs, fields=_LISTED)

        async def _get_file_request(self, rpath: str, *args: Any, **kwargs: Any) -> Any:
            with explained("gs", rpath):
                return await super()._get_file_request(rpath, *args, **kwargs)

    return Gcs


def _s3() -> type:
    from s3fs import S3FileSystem

    class S3(_Exact, S3FileSystem):
        """s3fs, with errors of one line."""

        retries = 2  # by s3fs, of botocore's attempts, once more around reads: 5 would be a quarter of an hour

        @staticmethod
        def _defaults() -> dict[str, Any]:
            return {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": _ATTEMPTS}}}

        async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
            with explained("s3", "/".join(kwargs[name] for name in ("Bucket", "Key") if name in kwargs)):
                return await super()._call_s3(method, *args, **kwargs)

        async def _cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
            with explained("s3", path):
                return await super()._cat_file(path, *args, **kwargs)

        async def _get_file(self, rpath: str, *args: Any, **kwargs: Any) -> Any:
            with explained("s3", rpath):
                return await super()._get_file(rpath, *args, **kwargs)

    return S3


@contextmanager
def explained(scheme: str, place: str) -> Iterator[None]:
    """Makes a client's exception a line: what others can handle (not found, exists already) stays as it is.

    Args:
        place: the bucket, or the object in it.

    Raises:
        UserError: no such bucket, no credentials, or no right.
        TransientError: the server could not be reached, or was not able to answer, in all attempts.
    """
    try:
        yield
    except FileNotFoundError as error:
        if "/" not in place or "bucket does not exist" in str(error):
            raise UserError(f"{scheme}://{place}: there is no such bucket: check its name, or create it") from error
        raise
    except (UserError, FileExistsError):
        raise
    except Exception as error:
        if kind := _kind(error):
            why = " ".join(str(error).split())[:160] or type(error).__name__
            place = place if "://" in place else f"{scheme}://{place.split('?')[0]}"
            if kind is TransientError:
                raise TransientError(f"{place} cannot be reached ({why}): run the same command again") from error
            raise UserError(f"{place} is closed to you ({why}): {_RIGHTS[scheme]}") from error
        raise


def _kind(error: BaseException) -> type[UserError] | None:
    """UserError for what asks for rights, TransientError for a network or a server that fails; None: unknown."""
    response = getattr(error, "response", None)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    status = status or getattr(error, "code", None) or getattr(error, "status", None)
    name = type(error).__module__.partition(".")[0] + "." + type(error).__name__
    text = str(error)
    if name.startswith(("jax.", "jaxlib.")):  # a device's, in the same words
        return None
    if isinstance(error, PermissionError) or status in (401, 403) or text.startswith("Forbidden"):
        return UserError
    if any(word in text for word in ("PERMISSION_DENIED", "UNAUTHENTICATED", "HTTP response code: 403")):
        return UserError
    if name == "google.TransportError":
        return TransientError
    if "Credential" in name or name.startswith("google.") or "Credential" in text:
        return UserError
    if isinstance(status, int) and (status >= 500 or status in (408, 429)):
        return TransientError
    if isinstance(error, ConnectionError | TimeoutError) or name.partition(".")[0] in ("aiohttp", "requests"):
        return TransientError
    if name in ("botocore.EndpointConnectionError", "botocore.ConnectionClosedError", "botocore.HTTPClientError"):
        return TransientError
    if name.startswith(("botocore.Connect", "botocore.Read", "botocore.ResponseStream", "botocore.IncompleteRead")):
        return TransientError
    if any(word in text for word in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED")):
        return TransientError  # TensorStore's
    if isinstance(error, OSError) and error.errno == 5:  # s3fs's for what the server could not do
        return TransientError
    return None
