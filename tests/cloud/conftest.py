"""Two buckets that every test of the session shares; each test has a folder of its own in each."""

import uuid

import pytest

from tests.cloud.servers import Faults, Servers


@pytest.fixture(scope="session")
def servers():
    with Servers() as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.variables().items():
            patch.setenv(name, value)
        yield started
    # fsspec's threads keep connections; nothing else does


@pytest.fixture
def gs(servers):
    """The address of an empty folder."""
    servers.gs.faults = Faults()
    return f"gs://bucket/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def s3(servers):
    """The address of an empty folder."""
    servers.s3.faults = Faults()
    return f"s3://bucket/{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["gs", "s3"])
def bucket(request):
    """The address of an empty folder in each."""
    return request.getfixturevalue(request.param)
