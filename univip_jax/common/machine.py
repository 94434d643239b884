"""What libraries take for granted on a machine: enough open files, a user with a name, a home folder."""

import logging
import os
import pwd
import resource
import sys
import tempfile
import warnings

from univip_jax.common.errors import UserError
from univip_jax.common.files import NO_HOME, expand

_LEAST_FILES, _ENOUGH_FILES = 32, 65536
_FOLDERS = ("TFDS_DATA_DIR", "JAX_COMPILATION_CACHE_DIR")  # whose readers would make a folder named ~
_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where getpass.getuser looks before it asks for the user's entry


def settle() -> None:
    """Raises the limit of open files, and names the user and the home folder where nothing does. For commands.

    Raises UserError: fewer files may be open than the smallest training needs, or the environment names a folder by a
    variable without a value.
    """
    _raise_file_limit()
    for name in _FOLDERS:
        if name in os.environ:
            os.environ[name] = expand(os.environ[name])
    before_imports()


def before_imports() -> None:
    """Gives the user a name and a home folder that cannot be, where nothing says either: libraries ask on import.

    Ends the process with a line where there is no temporary folder: matplotlib cannot be imported.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        print("error: no temporary folder can be written to: make one and export TMPDIR=FOLDER", file=sys.stderr)
        sys.exit(1)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where its folder cannot be in the home folder
    warnings.filterwarnings("ignore", ".*joblib will operate in serial mode")  # without /dev/shm, and it is unused
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # a container that runs as a bare number
        if not any(os.environ.get(name) for name in _NAMES):
            os.environ["LOGNAME"] = f"uid{os.getuid()}"
        os.environ.setdefault("HOME", NO_HOME)  # else libraries make a folder named ~


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        for limit in (wanted, min(wanted, 10240)):  # macOS's kernel has a limit of its own, and says infinity
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                break
            except (ValueError, OSError):
                continue
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        raise UserError(
            f"only {soft} files may be open at once here, {_LEAST_FILES} are needed: ulimit -n {_LEAST_FILES}, in a "
            "shell that was not limited, or as root"
        )
