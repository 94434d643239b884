"""Which pictures meet in a pass, what the target computes, and the trees of the parameters."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coco
from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.models.univip import Encoder, ModelSpec, Online, online_forward, target_forward

SPEC = replace(
    to_spec(ModelSpec, coco.get_config(), "model"),
    **{"backbone": "resnet10", "width": 0.125, "stem": "small", "hidden": 16, "projection": 8, "dtype": "float32"},
    running_stats="all",
)
B, K = 3, 2
QUICK = {"xla_backend_optimization_level": 0}  # compiles in half the time; nothing here runs for long


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(B, 2, 32, 32, 3)).astype(np.float32)
    return scenes, rng.normal(size=(B, K, 24, 24, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables(pictures) -> dict:
    init = jax.jit(lambda *x: Online(SPEC, merge=True).init(jax.random.key(0), *x), compiler_options=QUICK)
    return jax.device_get(init(*pictures))


@pytest.fixture(scope="module")
def online():
    """(variables, scenes, instances) to (outputs, new statistics), in train mode, compiled once."""
    network = Online(SPEC, merge=True)
    return jax.jit(lambda v, *x: online_forward(network, v, *x), compiler_options=QUICK)


@pytest.fixture(scope="module")
def target():
    """(the encoder's variables, scenes, instances) to (outputs, new statistics), compiled once."""
    return jax.jit(lambda v, *x: target_forward(Encoder(SPEC), v, *x), compiler_options=QUICK)


@pytest.fixture(scope="module")
def encode():
    """(the encoder's variables, images of one pass) to (outputs, new statistics)."""
    encoder = Encoder(SPEC)
    return jax.jit(lambda v, x: encoder.apply(v, x, True, mutable=["batch_stats"]), compiler_options=QUICK)


def encoder_of(variables: dict) -> dict:
    return {kind: tree["encoder"] for kind, tree in variables.items()}


def test_a_scene_does_not_see_the_other_scene_nor_the_instances(online, variables, pictures):
    """Batch norm mixes the pictures of a pass: what shares a pass changes, what does not stays as it was."""
    scenes, instances = pictures
    before, _ = online(variables, scenes, instances)
    changed = scenes.copy()
    changed[0, 1] += 1.0
    after, _ = online(variables, changed, instances)
    np.testing.assert_array_equal(after.scenes[:, 0], before.scenes[:, 0])
    np.testing.assert_array_equal(after.instances, before.instances)
    moved = np.abs(np.asarray(after.scenes - before.scenes))[:, 1].max(-1)
    assert (moved > 1e-4).all()  # all images of the pass, through its statistics
    changed = instances.copy()
    changed[0, 0] += 1.0
    after, _ = online(variables, scenes, changed)
    np.testing.assert_array_equal(after.scenes, before.scenes)
    assert (np.abs(np.asarray(after.instances - before.instances)).max(-1) > 1e-4).all()


def test_the_target_computes_the_encoder_pass_by_pass(target, encode, variables, pictures):
    """Scene 1, scene 2, then all instances in one pass; statistics go from pass to pass in that order."""
    scenes, instances = pictures
    found, statistics = target(encoder_of(variables), scenes, instances)
    state, outputs = encoder_of(variables), []
    for images in (scenes[:, 0], scenes[:, 1], instances.reshape(B * K, 24, 24, 3)):
        output, updates = encode(state, images)
        outputs.append(np.asarray(output))
        state = state | {"batch_stats": updates["batch_stats"]}
    np.testing.assert_allclose(found.scenes, np.stack(outputs[:2], 1), atol=1e-5)
    np.testing.assert_allclose(found.instances, outputs[2].reshape(B, K, 8), atol=1e-5)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-2
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), statistics, state["batch_stats"])


def test_the_online_network_is_encoder_predictor_and_a_linear_layer(online, target, variables, pictures):
    """The target, which shares the encoder's parameters here, followed by the heads in NumPy."""
    found, _ = jax.device_get(online(variables, *pictures))
    encoded, _ = jax.device_get(target(encoder_of(variables), *pictures))
    p = variables["params"]["predictor"]

    def predict(x: np.ndarray) -> np.ndarray:
        hidden = x @ p["linear1"]["kernel"] + p["linear1"]["bias"]
        hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5) * p["bn1"]["scale"] + p["bn1"]["bias"]
        return np.maximum(hidden, 0) @ p["linear2"]["kernel"]

    for view in range(2):
        np.testing.assert_allclose(found.scenes[:, view], predict(encoded.scenes[:, view]), atol=1e-4)
    instances = predict(encoded.instances.reshape(B * K, 8)).reshape(B, K, 8)
    np.testing.assert_allclose(found.instances, instances, atol=1e-4)
    layer = variables["params"]["f_linear"]
    assert layer["kernel"].shape == (K * 8, 8)
    merged = [np.concatenate(list(image)) @ layer["kernel"] + layer["bias"] for image in instances]
    np.testing.assert_allclose(found.merged, merged, atol=1e-4)
    assert np.abs(found.merged).max() > 1e-2


def test_both_networks_leave_the_statistics_of_the_same_pictures(online, target, variables, pictures):
    _, updates = online(variables, *pictures)
    _, statistics = target(encoder_of(variables), *pictures)
    found = updates["encoder"]
    assert jax.tree.structure(found) == jax.tree.structure(statistics)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, statistics)


def test_running_statistics_of_scenes_alone_are_those_of_a_step_without_instances(online, target, variables, pictures):
    """Outputs stay as they are: a pass in training normalises by its own pictures."""
    scenes, instances = pictures
    spec = replace(SPEC, running_stats="scenes")
    network = Online(spec, merge=True)
    found, statistics = jax.jit(lambda v, *x: online_forward(network, v, *x), compiler_options=QUICK)(
        variables, *pictures
    )
    expected, of_all = online(variables, *pictures)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)
    of_target = jax.jit(lambda v, *x: target_forward(Encoder(spec), v, *x)[1], compiler_options=QUICK)(
        encoder_of(variables), *pictures
    )
    _, of_scenes = target(encoder_of(variables), scenes, instances[:, :0])
    for part in (statistics["encoder"], of_target):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), part, of_scenes)
    differ = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), statistics["encoder"], of_all["encoder"])
    assert min(jax.tree.leaves(differ)) > 1e-4


def test_two_predictors_share_the_encoder_and_nothing_else(online, variables, pictures):
    """With the weights of the one predictor in both, outputs are those of one; then instances follow their own."""
    network = Online(replace(SPEC, predictors="two", running_stats="scenes"), merge=True)
    forward = jax.jit(lambda v, *x: online_forward(network, v, *x), compiler_options=QUICK)
    twice = {
        kind: tree | {"instance_predictor": jax.tree.map(np.copy, tree["predictor"])}
        for kind, tree in variables.items()
    }
    init = jax.eval_shape(lambda *x: network.init(jax.random.key(0), *x), *pictures)
    assert jax.tree.map(np.shape, init) == jax.tree.map(np.shape, twice)
    found, statistics = forward(twice, *pictures)
    expected, _ = online(variables, *pictures)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)
    # No scene passes through it: its running statistics are of instances, whatever `running_stats` is.
    moved = np.abs(statistics["instance_predictor"]["bn1"]["mean"]).max()
    assert moved > 1e-3
    twice["params"]["instance_predictor"]["linear2"]["kernel"] *= -1
    after, _ = forward(twice, *pictures)
    np.testing.assert_array_equal(after.scenes, found.scenes)
    np.testing.assert_allclose(after.instances, -np.asarray(found.instances), atol=1e-6)


def test_no_gradient_comes_out_of_the_target(variables):
    scenes, instances = jnp.ones((2, 2, 16, 16, 3)), jnp.ones((2, 0, 16, 16, 3))

    def loss(scenes, params):
        state = {"params": params, "batch_stats": encoder_of(variables)["batch_stats"]}
        return target_forward(Encoder(SPEC), state, scenes, instances)[0].scenes.sum()

    both = jax.jit(jax.grad(loss, argnums=(0, 1)))(scenes, encoder_of(variables)["params"])
    for gradient in jax.tree.leaves(both):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_without_instances_outputs_are_empty_and_scenes_as_with_them(online, target, variables, pictures):
    scenes, instances = pictures
    network = Online(SPEC, merge=False)
    params = {name: tree for name, tree in variables["params"].items() if name != "f_linear"}
    state = {"params": params, "batch_stats": variables["batch_stats"]}
    forward = jax.jit(lambda v, *x: network.apply(v, *x, mutable=["batch_stats"]), compiler_options=QUICK)
    found, _ = forward(state, scenes, instances[:, :0])
    assert found.instances.shape == (B, 0, 8)
    np.testing.assert_array_equal(found.merged, np.zeros((B, 8)))
    np.testing.assert_allclose(found.scenes, online(variables, *pictures)[0].scenes, atol=1e-5)
    shapes, _ = jax.eval_shape(target, encoder_of(variables), scenes, instances[:, :0])
    assert shapes.instances.shape == (B, 0, 8) and shapes.scenes.shape == (B, 2, 8)


def test_trees_of_the_parameters(variables):
    """No norm and no bias at the end of the heads; `f_linear` only where instances are merged."""
    params = variables["params"]
    assert set(params) == {"encoder", "predictor", "f_linear"}
    assert set(params["encoder"]) == {"backbone", "projector"}
    for head, features in ((params["encoder"]["projector"], 64), (params["predictor"], 8)):
        shapes = jax.tree.map(np.shape, head)
        assert shapes == {
            "linear1": {"kernel": (features, 16), "bias": (16,)},
            "bn1": {"scale": (16,), "bias": (16,)},
            "linear2": {"kernel": (16, 8)},
        }
    empty = jnp.zeros((1, 2, 32, 32, 3)), jnp.zeros((1, 0, 32, 32, 3))
    without = jax.eval_shape(lambda: Online(SPEC, merge=False).init(jax.random.key(0), *empty))
    assert set(without["params"]) == {"encoder", "predictor"}


@pytest.mark.parametrize(("init", "gain"), [("fan_in", 2), ("fan_out", 1)])
def test_heads_start_by_he_s_or_lecun_s_rule(init, gain):
    """Variance 2 / inputs (OpenSelfSup) or 1 / inputs, and biases of 0; f_linear keeps 1 / inputs."""
    spec = replace(SPEC, init=init, hidden=256, projection=128)
    images = jnp.zeros((1, 2, 8, 8, 3)), jnp.zeros((1, 2, 8, 8, 3))
    params = jax.jit(lambda: Online(spec, merge=True).init(jax.random.key(0), *images)["params"])()
    for head in (params["encoder"]["projector"], params["predictor"]):
        for linear in (head["linear1"], head["linear2"]):
            found = np.asarray(linear["kernel"])
            np.testing.assert_allclose(found.var() * len(found), gain, rtol=0.05)
        np.testing.assert_array_equal(head["linear1"]["bias"], 0)
    np.testing.assert_allclose(np.var(params["f_linear"]["kernel"]) * 256, 1, rtol=0.05)


def test_bfloat16_gives_float32_outputs_statistics_and_parameters(pictures):
    spec = replace(SPEC, dtype="bfloat16")
    network = Online(spec, merge=True)

    def run(*pictures):
        state = network.init(jax.random.key(0), *pictures)
        return state, network.apply(state, *pictures, mutable=["batch_stats"])

    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(run, *pictures))} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", "resnet9"),
        ("stem", "large"),
        ("init", "he"),
        ("predictors", "three"),
        ("running_stats", "none"),
        ("dtype", "float16"),
        ("width", 0.01),
        ("hidden", 0),
        ("projection", 0),
    ],
)
def test_a_bad_spec_is_refused_by_the_field_s_name(field, value):
    good = {name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__}
    with pytest.raises(UserError, match=f"model.{field}={value!r}"):
        ModelSpec(**good | {field: value})
