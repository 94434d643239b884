"""The type checker of the tests' import hook: beartype, for which an int is a float too (PEP 484).

A folder in a bucket is a Path too, see `univip_jax.common.files.at`.
"""

from importlib.util import find_spec
from pathlib import Path

from beartype import BeartypeConf, FrozenDict, beartype

if find_spec("upath"):
    from upath import UPath

    paths = FrozenDict({Path: Path | UPath})
else:
    paths = FrozenDict()
check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=paths))
