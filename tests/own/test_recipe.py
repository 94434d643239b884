"""The recipe by the number of photos, held to numbers worked out by hand."""

import pytest

from univip_jax.common.errors import UserError
from univip_jax.own.recipe import Recipe, choose, schedule

ZERO = {"warm": None, "backbone": None, "scene_size": 0, "platform": "gpu", "num_devices": 1}
WARM = {"init": "r50.pth", "model.backbone": "resnet50", "model.width": 1.0, "model.stem": "imagenet"}


@pytest.mark.parametrize(
    ("photos", "batch", "backbone", "epochs"),
    [
        (500, 64, "resnet18", 4000),  # 800 sqrt(118287 / 500) is 12,305
        (5_000, 128, "resnet50", 3891),
        (50_000, 256, "resnet50", 1230),
        (118_287, 512, "resnet50", 800),  # COCO: the shipped config
        (500_000, 512, "resnet50", 389),
        (14_000_000, 512, "resnet50", 200),
    ],
)
def test_choose_follows_the_table_of_the_docs(photos, batch, backbone, epochs):
    recipe = choose(photos, photos, **ZERO)
    assert (recipe.batch_size, recipe.fields["model.backbone"], recipe.most_epochs) == (batch, backbone, epochs)
    assert choose(photos, photos, **ZERO | {"warm": WARM}).most_epochs == epochs // 4


def test_choose_takes_what_is_asked_for_and_what_the_weights_are():
    asked = choose(90, 90, **ZERO | {"backbone": "resnet34", "scene_size": 128, "num_devices": 4})
    assert asked.fields["model.backbone"] == "resnet34" and asked.fields["views.scene_size"] == 128
    assert asked.fields["views.instance_size"] == 64  # 96/224 of 128 is 55; multiples of 32
    assert asked.batch_size == 20  # a quarter of the photos, shared by 4 devices
    on_cpu = choose(5_000, 5_000, **ZERO | {"platform": "cpu"}).fields
    assert (on_cpu["model.backbone"], on_cpu["views.scene_size"], on_cpu["model.dtype"]) == ("resnet18", 64, "float32")
    warm = choose(300, 300, **ZERO | {"warm": WARM})
    assert WARM.items() <= warm.fields.items() and warm.fields["views.scene_size"] == 224
    with pytest.raises(UserError, match=r"--backbone=resnet18, but --init holds a resnet50"):
        choose(300, 300, **ZERO | {"warm": WARM, "backbone": "resnet18"})
    copies = choose(64, 1, **ZERO)
    assert (copies.batch_size, copies.most_epochs) == (16, 4000)
    with pytest.raises(UserError, match="there are 3 photos, and 4 devices need 4 at least"):
        choose(3, 3, **ZERO | {"num_devices": 4})


def test_schedule_fits_the_time_and_derives_the_rest():
    """10,000 photos in batches of 128 are 78 steps an epoch."""
    recipe = Recipe({}, 128, 100, [])
    found = schedule(recipe, 10_000, 128, seconds=1560.0, step_seconds=1.0, hours=8)
    assert found["num_steps"] == 1560  # 20 epochs
    assert found["optimizer.lr"] == 0.2 and found["optimizer.warmup_epochs"] == 2.0
    assert found["ema.base"] == round(1 - 128 / (0.05 * 1560 * 128), 4)  # 78 steps: 5 % of the run
    assert found["log_every_steps"] == 39 and found["checkpoint_every_steps"] == 195
    long = schedule(recipe, 10_000, 128, seconds=1e6, step_seconds=1.0, hours=8)
    assert long["num_steps"] == 7800 and long["optimizer.warmup_epochs"] == 4.0
    assert long["ema.base"] == round(1 - 128 / 49_920, 4)  # 5 % of its images are fewer than 51,200
    assert schedule(recipe, 20_000, 128, 1e6, 1.0, 8)["ema.base"] == 0.9975  # ORL's 51,200
    assert schedule(Recipe({"init": "x"}, 128, 100, []), 10_000, 128, 1e6, 1.0, 8)["optimizer.lr"] == 0.05
    with pytest.raises(UserError, match=r"1\.0 min are left .* 30 steps of 2 s, .* give --hours=0\.12,"):
        schedule(recipe, 10_000, 128, seconds=60.0, step_seconds=2.0, hours=0.1)
