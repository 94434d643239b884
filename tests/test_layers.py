"""Lower rooms never import higher ones, each library has one home, and the accelerator's side needs no TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Lowest first. A module may import from its own line and from those above.
LAYERS = [
    ["errors", "files"],
    ["digest", "monitor", "preemption", "goodput", "watchdog", "compile_cache", "ranks"],
    ["data.polygons", "data.tfds_photos", "data.unreadable", "evaluate.one_vs_rest"],
    ["data.voc"],
    ["data.tfds_labels"],
    ["types", "config", "views", "command", "detectron2.names", "detectron2.pickle_file", "feature_file"],
    [
        "data.records",
        "data.boxes",
        "models.resnet",
        "transport",
        "augment",
        "optim",
        "sharding",
        "metrics",
        "charts",
        "supervise",
    ],
    ["weights", "detectron2.check", "models.heads", "data.index", "data.crops", "losses", "paper"],
    ["models.univip", "detectron2.configs", "weight_files", "data.eval_views", "results"],
    ["train_state", "evaluate.neighbours", "data.pipeline", "data.labelled", "detectron2.__main__", "reproduce"],
    ["train_step", "checkpoint", "data.subset"],
    ["plan", "evaluate.features", "evaluate.color", "evaluate.heads", "evaluate.logistic"],
    ["pictures", "resume", "evaluate.kept", "evaluate.probe", "extract", "import_weights", "export.consumers"],
    ["evaluate.knn", "evaluate.svm", "report"],
    ["evaluate.during", "evaluate.finetune", "evaluate.linear", "evaluate.sweep", "export.formats", "export.parity"],
    ["run_log", "evaluate.semi", "export.card"],
    ["train"],
    ["export.__main__"],
]
HOMES = {
    "tensorflow": ("univip_jax/data/",),
    "tensorflow_datasets": ("univip_jax/data/",),
    "flax.linen": ("univip_jax/models/",),
    "ott": ("univip_jax/transport.py",),
    "orbax": ("univip_jax/checkpoint.py",),
    "cv2": ("data_prep/",),
    "apache_beam": ("data_prep/beam.py",),
    "pyarrow": ("univip_jax/feature_file.py",),
    "safetensors": ("univip_jax/weight_files.py", "univip_jax/export/"),
    "torch": ("univip_jax/weight_files.py", "univip_jax/export/"),
    "yaml": ("univip_jax/detectron2/",),
    "matplotlib": ("univip_jax/charts.py",),
    "dm_pix": ("univip_jax/augment.py",),
}
FILES = [p for room in ("univip_jax", "data_prep", "configs", "demo") for p in sorted((ROOT / room).rglob("*.py"))]
# Parsed before any test runs: CPython 3.11's parser may fail where another thread parses too.
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, late imports included."""
    names = set()
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "extra":
            names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return names


def ours(names: set[str]) -> set[str]:
    """Those of our rooms, without the package's name."""
    known = {module for layer in LAYERS for module in layer}
    return {n.removeprefix("univip_jax.") for n in names if n.startswith("univip_jax.")} & known


def test_every_module_has_a_layer():
    modules = {
        str(p.relative_to(ROOT / "univip_jax").with_suffix("")).replace("/", ".")
        for p in FILES
        if ROOT / "univip_jax" in p.parents and p.name != "__init__.py"
    }
    assert modules == {module for layer in LAYERS for module in layer}


@pytest.mark.parametrize("level", range(len(LAYERS)))
def test_no_import_points_upwards(level):
    allowed = {module for layer in LAYERS[: level + 1] for module in layer}
    for module in LAYERS[level]:
        found = ours(imports(ROOT / "univip_jax" / f"{module.replace('.', '/')}.py"))
        assert found <= allowed, f"{module} imports {found - allowed}"


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library):
    users = {str(p.relative_to(ROOT)) for p in FILES if any(f"{n}.".startswith(f"{library}.") for n in imports(p))}
    assert users
    assert all(user.startswith(HOMES[library]) for user in users), users


def test_data_prep_and_configs_know_little_of_the_rest():
    for path in FILES:
        room = path.relative_to(ROOT).parts[0]
        if room == "data_prep":
            # TFDS has its home beside TensorFlow's; polygons are a part of the record.
            known = {"data.records", "data.polygons", "data.boxes", "data.tfds_photos", "errors"}
            assert ours(imports(path)) <= known, path
        if room == "configs":
            assert {n.split(".")[0] for n in imports(path)} <= {"ml_collections", "configs"}, path


def test_the_accelerators_side_imports_without_tensorflow():
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'cv2'): sys.modules[name] = None\n"
        "import univip_jax.plan, univip_jax.checkpoint, univip_jax.sharding, univip_jax.evaluate.neighbours\n"
        "import benchmarks.ablation.row, benchmarks.ablation.table, benchmarks.scenes.packed\n"
        "print('ok')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "ok\n", result.stderr
