"""Files test_torch_*.py need requirements-export.txt; `make test-export` installs it, `make test` leaves them out."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["test_torch_*.py"]
