"""Lower rooms never import higher ones, nothing imports in a circle, and each library has one home."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Lowest first; a room imports from itself and from those before it. `paper` is the root of univip_jax.
ORDER = [
    *("common", "paper", "data", "run", "weights", "evaluate"),
    *("detection", "detect", "extract", "export", "report", "reproduce", "own"),
]
HOMES = {
    "tensorflow": ("univip_jax/data/host.py",),
    "tensorflow_datasets": ("univip_jax/data/",),
    "flax.linen": ("univip_jax/models/",),
    "ott": ("univip_jax/transport.py",),
    "orbax": ("univip_jax/run/checkpoint.py",),
    "cv2": ("data_prep/", "univip_jax/data/photos/pixels.py"),
    "pillow_heif": ("univip_jax/data/photos/decode.py",),
    "apache_beam": ("data_prep/beam.py",),
    "pycocotools": ("univip_jax/data/detection/masks.py", "univip_jax/detection/coco_ap.py", "data_prep/"),
    "pyarrow": ("univip_jax/extract/",),
    "safetensors": ("univip_jax/weights/", "univip_jax/export/"),
    "torch": ("univip_jax/export/",),
    "yaml": ("univip_jax/export/detectron2/",),
    "matplotlib": ("univip_jax/report/", "data_prep/page.py", "demo/picture.py"),
    **dict.fromkeys(("upath", "tensorstore"), ("univip_jax/common/buckets.py",)),
    **dict.fromkeys(("fsspec", "gcsfs", "s3fs", "aiohttp"), ("univip_jax/common/clients.py",)),
    "google_crc32c": ("univip_jax/data/tfrecord.py",),
    "dm_pix": ("univip_jax/augment.py", "univip_jax/colors.py"),
}
FILES = [p for room in ("univip_jax", "data_prep", "configs", "demo") for p in sorted((ROOT / room).rglob("*.py"))]
# Parsed before any test runs: CPython 3.11's parser may fail where another thread parses too.
TREES = {path: ast.parse(path.read_text()) for path in FILES}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, late imports included, but not those for annotations alone."""
    names = set()
    for_annotations = [
        node for node in ast.walk(TREES[path]) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    skipped = {id(child) for node in for_annotations for child in ast.walk(node)}
    for node in ast.walk(TREES[path]):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "extra":
            names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return names


def ours(path: Path) -> set[str]:
    """Our modules among them; a package stands for its `__init__`, which is imported first."""
    return {name for name in imports(path) if name in MODULES}


def room_of(module: str) -> str:
    """`paper` for the root of univip_jax and its models; the package for all outside."""
    package, *rest = module.split(".")
    if package != "univip_jax":
        return package
    return rest[0] if rest and rest[0] in ORDER else "paper"


@pytest.mark.parametrize("room", ORDER)
def test_no_import_points_upwards(room):
    modules = [name for name in MODULES if name.startswith("univip_jax.") and room_of(name) == room]
    assert modules
    for module in modules:
        allowed = {*ORDER[: ORDER.index(room) + 1]} | ({"data_prep", "configs"} if room == "own" else set())
        used = {name for name in ours(MODULES[module]) if name != "univip_jax" and room_of(name) not in allowed}
        assert not used, f"{module} imports {used}"


def test_nothing_imports_in_a_circle():
    inner = {name: ours(path) - {name, name.rpartition(".")[0]} for name, path in MODULES.items()}
    assert len(list(TopologicalSorter(inner).static_order())) == len(MODULES)


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library):
    users = {str(p.relative_to(ROOT)) for p in FILES if any(f"{n}.".startswith(f"{library}.") for n in imports(p))}
    assert users
    assert all(user.startswith(HOMES[library]) for user in users), users


def test_data_prep_and_configs_know_little_of_the_rest():
    for module, path in MODULES.items():
        if module.startswith("data_prep"):
            assert {room_of(name) for name in ours(path)} <= {"data_prep", "data", "common"}, module
        if module.startswith("configs"):
            assert {name.split(".")[0] for name in imports(path)} <= {"ml_collections", "configs"}, module


def test_the_accelerators_side_imports_without_tensorflow():
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'cv2', 'ott'): sys.modules[name] = None\n"
        "import univip_jax.weights.encoder; del sys.modules['ott']\n"  # in notebooks nothing heavy
        "import univip_jax.plan, univip_jax.run.checkpoint, univip_jax.sharding, univip_jax.evaluate.neighbours\n"
        "import univip_jax.detection.predict, univip_jax.detection.schedule\n"
        "import benchmarks.ablation.row, benchmarks.ablation.table, benchmarks.scenes.packed\n"
        "import benchmarks.detection.jax_step\n"
        "print('ok')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "ok\n", result.stderr
