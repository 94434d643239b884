"""Four CPU devices, and shapes checked at run time, in every test."""

import atexit
import os
import shutil
import tempfile

# Level 0 compiles a train step in half the time, and no test runs one for long.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Several tests train the same network: each step is compiled once. The folder is this session's: nothing in it is old.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="univip_jax_tests_")

import numpy as np
import pytest
from jaxtyping import install_import_hook
from PIL import Image

import tests.typechecker  # noqa: F401 (the hook finds it as an attribute)

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Shapes are checked where arrays are handed on, but not where TensorFlow traces tensors, which jaxtyping does not know.
_CHECKED = ("augment", "losses", "models", "plan", "sharding", "train_step", "transport", "data.boxes", "run.health")
_CHECKED += (
    "run.integrity",
    "run.plans",
    *(f"evaluate.{name}" for name in ("features", "heads", "neighbours", "scores")),
    *(f"detection.{name}" for name in ("boxes", "detections", "losses", "matching", "nms", "predict", "proposals")),
    *(f"detection.{name}" for name in ("roi_align", "step", "targets")),
)
_HOOK = install_import_hook([f"univip_jax.{module}" for module in _CHECKED], "tests.typechecker.check")

# They train, compile networks or start processes: most of the suite's minutes. `make test-fast` leaves them out.
SLOW = (
    "tests/beam/",
    "tests/benchmarks/",
    "tests/cloud/",
    "tests/data/test_pipeline.py::test_batches_of_several_hosts_equal_one_hosts",
    "tests/data_prep/test_data_prep_command.py",
    "tests/data_prep/test_kills.py",
    "tests/data_prep/test_photo_stats.py::test_photos_that",
    "tests/data_prep/test_prepare.py",
    "tests/data_prep/test_runners.py",
    "tests/data_prep/test_torture.py",
    "tests/evaluate/",
    "tests/detection/",
    "tests/own/test_pretrain.py",
    "tests/export/",
    "tests/extract/",
    "tests/report/",
    "tests/run/test_alarm.py",
    "tests/run/test_compiled.py",
    "tests/run/test_damaged_checkpoints.py",
    "tests/run/test_distributed.py",
    "tests/run/test_health.py",
    "tests/run/test_plans.py",
    "tests/run/test_supervise.py",
    "tests/run/test_survival.py",
    "tests/run/test_train.py",
    "tests/soak/",
    "tests/test_demo.py::test_picture",
    "tests/test_main.py::test_a_traceback",
    "tests/test_sharding.py",
    "tests/test_train_step.py",
)


def pytest_collection_modifyitems(items):
    """Marks the slow tests."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """24 painted photos, prepared."""
    from tests.small import prepare_photos, write_photos  # late: after the hook

    root = tmp_path_factory.mktemp("data")
    write_photos(root / "photos", 24)
    return prepare_photos(root / "photos", root / "prepared")


@pytest.fixture(scope="session")
def run(data, tmp_path_factory):
    """A finished run of 4 steps with checkpoints after 2 and 4; tests work on copies."""
    from tests.small import small_config
    from univip_jax.run.pretraining import train

    folder = tmp_path_factory.mktemp("run")
    train(small_config(data), folder)
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """Two classes, told apart by brightness, 12 photos each."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        (root / name).mkdir()
        for index in range(12):
            pixels = rng.integers(low, low + 100, (40, 52, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """VOC's layout: 12 photos to train on and 10 to test. A cat makes the left half darker, a dog the right."""
    from tests.small import write_voc  # late: after the hook

    root = tmp_path_factory.mktemp("voc") / "VOC2007"
    cat, dog, hard_cat, hard_dog = ("cat", 0), ("dog", 0), ("cat", 1), ("dog", 1)
    trainval = [[cat], [dog]] * 4 + [[cat, dog], [cat, hard_dog], [], [hard_cat, cat]]
    test = [[cat], [dog], [cat, dog], [cat, hard_dog], [], [hard_cat, cat], [dog], [hard_cat, dog], [cat], [dog]]
    write_voc(root, {"trainval": trainval, "test": test})
    return root
