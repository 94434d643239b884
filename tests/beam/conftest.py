"""These tests need requirements-beam.txt; `make test-beam` installs it, `make test` leaves them out."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("apache_beam") else ["test_*.py"]
