"""The benchmark's PyTorch step computes what ours does: networks, losses, one update, and each augmentation."""

from dataclasses import replace

import dm_pix
import jax
import numpy as np
import pytest
import torch

from benchmarks.step import torch_augment
from benchmarks.step.program import Program, random_pixels
from benchmarks.step.torch_step import TorchStep
from univip_jax.augment import augment_batch, gaussian_blur
from univip_jax.colors import blend
from univip_jax.plan import make_plan
from univip_jax.sharding import make_mesh
from univip_jax.train_step import train_step
from univip_jax.types import Batch
from univip_jax.weights.names import to_torch

BATCH, SIDE, INSTANCE, K = 4, 32, 16, 2
FIELDS = {
    "model.backbone": "resnet10",
    "model.width": 0.125,
    "model.stem": "small",
    "model.hidden": 32,
    "model.projection": 16,
    "model.dtype": "float32",
    "views.scene_size": SIDE,
    "views.instance_size": INSTANCE,
    "views.num_instances": K,
    # Without chance both frameworks see the same pixels.
    **{f"augment.{name}": 0.0 for name in ("flip", "jitter", "greyscale")},
    "augment.blur": (0.0, 0.0),
    "augment.solarize": (0.0, 0.0),
    "loss.scene": 0.5,
    "loss.scene_instance": 2.0,
    "loss.instance": 3.0,
    # A learning rate at step 0.
    "optimizer.warmup_epochs": 0.0,
}
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time; nothing here runs for long


def load(linear: torch.nn.Linear, values: dict) -> None:
    linear.weight.copy_(torch.tensor(np.asarray(values["kernel"]).T))
    if linear.bias is not None:
        linear.bias.copy_(torch.tensor(np.asarray(values["bias"])))


def load_mlp(mlp, values: dict) -> None:
    load(mlp.linear1, values["linear1"])
    load(mlp.linear2, values["linear2"])
    mlp.bn1.weight.copy_(torch.tensor(np.asarray(values["bn1"]["scale"])))
    mlp.bn1.bias.copy_(torch.tensor(np.asarray(values["bn1"]["bias"])))


def load_encoder(encoder, params: dict, batch_stats: dict) -> None:
    backbone = to_torch({"params": params["backbone"], "batch_stats": batch_stats["backbone"]})
    state = {name: torch.tensor(value) for name, value in backbone.items()}
    missing, extra = encoder.backbone.load_state_dict(state, strict=False)
    assert not extra and all("num_batches_tracked" in name for name in missing)
    load_mlp(encoder.projector, params["projector"])


@torch.no_grad()
def load_state(step: TorchStep, state) -> None:
    """Ours, whatever the step trained before."""
    load_encoder(step.online.encoder, state.params["encoder"], state.batch_stats["encoder"])
    load_encoder(step.target, state.target_params, state.target_batch_stats)
    load_mlp(step.online.predictor, state.params["predictor"])
    load(step.online.f_linear, state.params["f_linear"])
    step.optimizer.state.clear()


def test_two_steps_are_ours():
    """Losses, then online and target weights; the target is not the encoder's copy, as in the middle of a run."""
    program = Program("torch", "univip", BATCH, fields=tuple(FIELDS.items()))
    plan = make_plan(program.config(), 100_000)
    state = jax.jit(plan.init_state, compiler_options=QUICK)()
    state = state.replace(target_params=jax.tree.map(lambda x: 1.25 * x + 0.01, state.target_params))
    batch = Batch(random_pixels(BATCH, 2, SIDE), random_pixels(BATCH, plan.views.num_instances, INSTANCE))
    theirs = TorchStep(program, "none")
    load_state(theirs, state)
    mesh = make_mesh(jax.devices()[:1])
    ours = jax.jit(lambda state, batch: train_step(state, batch, plan, mesh), compiler_options=QUICK)
    for _ in range(2):
        state, metrics = ours(state, batch)
        np.testing.assert_allclose(theirs.parts["step"]().item(), metrics["train/loss"], rtol=1e-4)
    for encoder, params in ((theirs.online.encoder, state.params["encoder"]), (theirs.target, state.target_params)):
        for linear in ("linear1", "linear2"):
            found = getattr(encoder.projector, linear).weight.detach()
            np.testing.assert_allclose(found.T, params["projector"][linear]["kernel"], rtol=1e-3, atol=1e-5)
        kernel = encoder.backbone.layer3[0].conv1.weight.detach().permute(2, 3, 1, 0)
        np.testing.assert_allclose(kernel, params["backbone"]["layer3_0"]["conv1"]["kernel"], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(3, 40, 40, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "factors"), [("contrast", (0.6, 1.0, 1.4)), ("saturation", (0.8, 1.0, 1.2)), ("hue", (-0.1, 0.0, 0.1))]
)
def test_adjustments_are_dm_pixs(pixels, name, factors):
    found = getattr(torch_augment, f"adjust_{name}")(torch.tensor(pixels), torch.tensor(factors).reshape(3, 1, 1, 1))
    expected = [getattr(dm_pix, f"adjust_{name}")(image, factor) for image, factor in zip(pixels, factors, strict=True)]
    assert np.abs(np.asarray(expected[0]) - pixels[0]).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_blends_are_ours(pixels):
    kinds, factors = np.arange(3), np.array([0.6, 0.8, 0.9], np.float32)
    found = torch_augment.blend(
        *(torch.tensor(x) for x in (pixels, *(y.reshape(3, 1, 1, 1) for y in (kinds, factors))))
    )
    np.testing.assert_allclose(found, jax.vmap(blend)(pixels, kinds, factors), atol=1e-5)


def test_blur_is_ours(pixels):
    sigmas = np.array([0.1, 1.0, 2.0], np.float32)
    found = torch_augment.gaussian_blur(torch.tensor(pixels), torch.tensor(sigmas), 6)
    np.testing.assert_allclose(found, jax.vmap(lambda x, sigma: gaussian_blur(x, sigma, 6))(pixels, sigmas), atol=1e-5)


def test_augmentation_without_chance_is_ours():
    """All that can be certain is: flip, greyscale, a blur of one sigma, solarization; in this order."""
    spec = replace(
        make_plan(Program("torch", "byol", BATCH).config(), 100_000).augment,
        flip=1.0, jitter=0.0, greyscale=1.0, blur=(1.0, 1.0), blur_sigma=(1.0, 1.0), solarize=(0.0, 1.0),
    )  # fmt: skip
    images = random_pixels(BATCH, 1, 40)[:, 0]
    ours = jax.jit(augment_batch, static_argnames=("spec", "view"), compiler_options=QUICK)
    expected = ours(jax.random.key(0), images, spec=spec, view=1)
    found = torch_augment.augment(torch.tensor(images), spec, view=1).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("color", ["torchvision", "byol"])
def test_jitter_draws_for_each_image(color):
    """Strengths of 0 change nothing, those of BYOL each image in its own way."""
    spec = replace(make_plan(Program("torch", "byol", BATCH).config(), 100_000).augment, jitter=1.0, color=color)
    spec = replace(spec, flip=0.0, greyscale=0.0, blur=(0.0, 0.0))
    still = replace(spec, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    images = torch.tensor(np.tile(random_pixels(1, 1, 20)[0], (8, 1, 1, 1)))
    plain = torch_augment.augment(images, replace(still, jitter=0.0), 0)
    np.testing.assert_allclose(torch_augment.augment(images, still, 0), plain, atol=1e-4)
    found = torch_augment.augment(images, spec, 0).flatten(1)
    assert ((found[:, None] - found[None]).abs().amax(-1) + torch.eye(8) > 1e-3).all()
