"""These tests need requirements-beam.txt; `make test-beam` installs it, `make test` leaves them out."""

import sys
from importlib.util import find_spec
from pathlib import Path

collect_ignore_glob = [] if find_spec("apache_beam") else ["test_*.py"]
sys.path.append(str(Path(__file__).parents[1] / "data_prep"))  # painted photos
