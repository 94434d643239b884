"""`plans.npz`: whose plans it holds, which stay, and what damage does; and the alarm for a plan that stays uniform."""

import re
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.small import small_config, state_after
from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import UserError
from univip_jax.data.index import Index
from univip_jax.data.pipeline import preview
from univip_jax.data.records import open_dataset
from univip_jax.models.univip import Encoder, Online
from univip_jax.plan import make_plan
from univip_jax.run.clock import Clock
from univip_jax.run.health import uniform_plan
from univip_jax.run.log import RunLog
from univip_jax.run.plans import PlanLog, kept_steps, read_plans
from univip_jax.run.pretraining import open_plan_log, open_run
from univip_jax.types import Batch


@pytest.fixture(scope="module")
def views(data):
    """Of the first four photos that a run sees."""
    config, dataset = small_config(data), open_dataset(str(data))
    index = Index(dataset, config.seed, config.batch_size)
    photos = preview(dataset, index, make_plan(config, 24).views, step=0, count=4)
    return Batch(*(np.stack(crops) for crops in zip(*(photo.views for photo in photos), strict=True)))


def test_a_run_logs_the_plans_of_its_first_photos(run, views):
    """Those of NumPy's Sinkhorn, from the networks' outputs."""
    found, plan = read_plans(run), make_plan(small_config("unread"), 24)
    np.testing.assert_array_equal(found.steps, [2, 4])
    np.testing.assert_array_equal(found.crops, views.instances)
    model = replace(plan.model, dtype="float32")
    scenes, crops = (jnp.asarray((v / 255 - IMAGENET_MEAN) / IMAGENET_STD, jnp.float32) for v in views)
    online_of = jax.jit(lambda v: Online(model, merge=False).apply(v, scenes, crops, train=False))
    target_of = jax.jit(lambda v, images: Encoder(model).apply(v, images, train=False))
    for place, step in enumerate((2, 4)):
        state = state_after(run, step)
        online = online_of({"params": state.params, "batch_stats": state.batch_stats})
        target = {"params": state.target_params, "batch_stats": state.target_batch_stats}
        for photo in range(4):
            ts, t = (target_of(target, images[photo]) for images in (scenes, crops))
            expected = oracles.instance_plan(online.instances[photo], t, online.scenes[photo], ts, plan.transport)
            np.testing.assert_allclose(found.plans[place, photo], expected, atol=1e-4)
    assert np.abs(found.plans[0] - found.plans[1]).max() > 1e-3


def test_the_first_plans_of_each_sixteenth_of_a_run_stay_and_the_newest():
    """160 steps, saved every 4: sixteenths begin at 0, 10, 20, ..., and the last step is one of its own."""
    firsts = [4, 12, 20, 32, 40, 52, 60, 72, 80, 92, 100, 112, 120, 132, 140, 152, 160]
    held = []
    for step in range(4, 161, 4):
        held = kept_steps([*held, step], 160)
        assert held == sorted({*(s for s in firsts if s <= step), step})
    assert held == firsts


def test_a_restart_drops_what_it_does_again_and_plans_of_other_photos(run, views, tmp_path):
    plan, state, before = make_plan(small_config("unread"), 24), state_after(run, 4), read_plans(run)
    for name, start, batch, expected in (
        ("same", 2, views, [2, 3]),
        ("newer", 4, views, [2, 3, 4]),
        ("others", 4, views._replace(instances=255 - views.instances), [3]),
    ):
        (tmp_path / name).mkdir()
        shutil.copy(run / "plans.npz", tmp_path / name)
        PlanLog(tmp_path / name, start, plan, batch).add(3, on_device(state))
        assert sorted(read_plans(tmp_path / name).steps) == expected
    np.testing.assert_array_equal(read_plans(tmp_path / "same").plans[0], before.plans[0])


def on_device(state):
    """On a device, as a run has it."""
    return jax.device_put(state)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "another array"])
def test_a_damaged_file_is_named_and_a_run_begins_another(run, views, tmp_path, capsys, damage):
    path = tmp_path / "plans.npz"
    whole = bytearray((run / "plans.npz").read_bytes())
    if damage == "flipped":
        whole[len(whole) // 2] ^= 1  # amid the crops
    path.write_bytes({"cut": whole[:-99], "text": b"no zip"}.get(damage, bytes(whole)))
    if damage == "another array":
        with np.load(run / "plans.npz") as file:
            np.savez(path, steps=file["steps"], plans=file["plans"][:1], crops=file["crops"])
    with pytest.raises(UserError, match=r"plans\.npz is damaged \(.+\): delete it"):
        read_plans(tmp_path)
    log = PlanLog(tmp_path, 4, make_plan(small_config("unread"), 24), views)
    assert "plans.npz is damaged" in capsys.readouterr().err
    log.add(4, on_device(state_after(run, 4)))
    np.testing.assert_array_equal(read_plans(tmp_path).steps, [4])


NEAR = {"step": 250, "train/epoch": 5.0, "plan/diagonal": 0.43, "plan/marginal_tv": 0.1}
RUN = {"total_steps": 1000, "warmup_epochs": 4.0, "epsilon": 0.1, "num_iters": 50}
NEAR |= {"plan/cosine_same": 0.64, "plan/cosine_other": 0.58}


@pytest.mark.parametrize(
    ("line", "count", "way"),
    [
        ({}, 4, r"43% of its mass .*\(uniform: 25%.*--config\.transport\.epsilon=0\.03 .*num_iters=134, or with"),
        ({"plan/cosine_other": 0.3}, 4, r"--config\.transport\.epsilon=0\.05 --config\.transport\.num_iters=80, or"),
        ({"plan/cosine_other": 0.635}, 4, r"another --workdir with --config\.loss\.instance=0$"),
        ({"plan/marginal_tv": 0.6}, 4, r"marginals alone move 60% .*--config\.transport\.marginals=uniform, or with"),
        ({"plan/diagonal": 0.44}, 4, None),  # 1/4 + 3/16 is 0.4375
        ({"plan/diagonal": 0.6}, 2, "uniform: 50%"),  # 1/2 + 1/8
        ({"plan/diagonal": 0.9999}, 1, None),
        ({"step": 249}, 4, None),
        ({"train/epoch": 4.0}, 4, None),
    ],
)
def test_a_plan_that_stays_near_uniform_is_named_with_the_way_out(line, count, way):
    found = uniform_plan(NEAR | line, num_instances=count, **RUN)
    assert found is None if way is None else re.search(way, found), found


def test_the_first_hundred_steps_are_not_judged():
    short = RUN | {"total_steps": 30}
    assert uniform_plan(NEAR | {"step": 99}, num_instances=4, **short) is None
    assert uniform_plan(NEAR | {"step": 100}, num_instances=4, **short)


def test_a_run_without_an_instance_term_is_never_named():
    assert uniform_plan({"step": 250, "train/epoch": 5.0}, num_instances=4, **RUN) is None


def test_the_console_names_a_uniform_plan_once(data, tmp_path, capsys):
    metrics = {name: value for name, value in NEAR.items() if name.startswith("plan/")}
    metrics |= {"train/loss": 0.0, "train/grad_norm": 1.0}
    with Clock(None, 0.0) as clock:
        config = small_config(data)
        config.num_steps = 200
        log = RunLog(tmp_path, 97, open_run(config, tmp_path, None), clock)
        log.train_from_now()
        for step in range(98, 103):
            log.report(step, [metrics], {})
        log.close()
    (named,) = capsys.readouterr().err.splitlines()
    assert named.startswith("step 100: The transport plan stays near uniform")


@pytest.mark.parametrize(("row", "logged"), [("table7=c", False), ("table7=d", True)])
def test_only_rows_with_an_instance_term_have_plans(data, tmp_path, row, logged):
    run = open_run(small_config(data, row), tmp_path / "run", None)
    assert (open_plan_log(run, 0) is not None) is logged
