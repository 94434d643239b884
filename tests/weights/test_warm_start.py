"""Pre-training that starts from weights: `config.init`."""

import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.small import small_config, state_after
from tests.weights.random_weights import assert_equal
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.export.card import describe
from univip_jax.run.folder import read_config
from univip_jax.run.pretraining import open_run, train
from univip_jax.weights.imported import import_weights
from univip_jax.weights.names import to_detectron2, to_flat, to_torch
from univip_jax.weights.pickle_file import write_pkl
from univip_jax.weights.warm_start import open_warm_start, starting_encoder


def warm_config(data, init, **model):
    config = small_config(data)
    config.init = str(init)
    config.model.update(model)
    return config


def start_of(config, folder):
    """The run, and its state at step 0, on the host."""
    opened = open_run(config, folder, open_weights=open_warm_start)
    return opened, jax.device_get(jax.jit(opened.init_state)())


@pytest.fixture(scope="module")
def files(run, tmp_path_factory):
    """The backbone of the run `run`, in each form that `import_weights` reads."""
    folder, variables = tmp_path_factory.mktemp("files"), load_encoder(run).variables
    save_file(to_torch(variables), folder / "torch.safetensors", {"stem": "small", "licence": "mit"})
    save_file(to_flat(variables), folder / "ours.safetensors", {"stem": "small"})
    write_pkl(folder / "detectron2.pkl", to_detectron2(to_torch(variables)))
    import_weights(folder / "ours.safetensors", folder / "imported")
    import_weights(folder / "detectron2.pkl", folder / "imported_pkl", stem="small")
    return folder


@pytest.mark.parametrize("name", ["torch.safetensors", "ours.safetensors", "imported", "imported_pkl"])
def test_the_backbone_at_step_0_is_the_files_bit_for_bit(name, files, run, data, tmp_path):
    """Online and target; all else is what it is without weights."""
    opened, state = start_of(warm_config(data, files / name), tmp_path)
    expected = load_encoder(run).variables
    for params, stats in (
        (state.params["encoder"], state.batch_stats["encoder"]),
        (state.target_params, state.target_batch_stats),
    ):
        assert_equal({"params": params["backbone"], "batch_stats": stats["backbone"]}, expected)
    cold = jax.device_get(jax.jit(opened.plan.init_state)())
    assert_equal(state.params["encoder"]["projector"], cold.params["encoder"]["projector"])
    assert_equal(state.params["predictor"], cold.params["predictor"])


def test_a_run_gives_its_projector_too_where_the_heads_are_equal(run, data, tmp_path):
    theirs = state_after(run, 4)
    opened, state = start_of(warm_config(data, run), tmp_path / "equal")
    assert_equal(state.params["encoder"], theirs.params["encoder"])
    assert_equal(state.target_params, theirs.params["encoder"])  # a copy of the online network, not their target
    assert_equal(state.target_batch_stats, theirs.batch_stats["encoder"])
    assert opened.config.started_from.parts == "backbone and projector" and not opened.weights.note

    opened, state = start_of(warm_config(data, run, hidden=48), tmp_path / "other")
    assert_equal(state.params["encoder"]["backbone"], theirs.params["encoder"]["backbone"])
    assert opened.config.started_from.parts == "backbone"
    assert opened.weights.note == f"the projector begins anew: model.hidden is 48, there 32 in {run}"


def test_another_network_is_refused_with_the_flags_that_fit(run, data, tmp_path):
    config = warm_config(data, run, backbone="resnet18", width=0.25)
    with pytest.raises(UserError, match=r"give --config\.model\.backbone=resnet10 --config\.model\.width=0\.125$"):
        open_run(config, tmp_path / "run", open_weights=open_warm_start)
    assert not (tmp_path / "run").exists()


def test_the_weights_are_named_and_not_needed_after_the_first_save(files, data, tmp_path, capsys):
    source, folder = tmp_path / "start.safetensors", tmp_path / "run"
    shutil.copy(files / "torch.safetensors", source)
    config = warm_config(data, source)
    train(config, folder, open_weights=open_warm_start)
    assert f"weights   backbone of {source} (step 0, licence mit)" in capsys.readouterr().out
    facts = read_config(folder).started_from
    assert facts.weights == load_encoder(source).sha256() and facts.source == str(source)
    encoder = load_encoder(folder)
    assert encoder.started_from == facts.to_dict()
    card = describe(encoder, folder, [], None)
    assert card["licence"] == "mit" and card["started_from"] == f"{source}, step 0, weights sha256 {facts.weights}"
    assert starting_encoder(folder).sha256() == facts.weights
    source.unlink()
    with pytest.raises(UserError, match=r"began from weights that are gone: .*start\.safetensors"):
        starting_encoder(folder)
    train(config, folder, open_weights=open_warm_start)  # it is finished, and says so
    assert "is finished: 4 of 4" in capsys.readouterr().out
    assert read_config(folder).started_from == facts


def test_another_init_is_refused_at_a_resume_and_other_weights_under_its_name_until_a_step_is_saved(
    files, run, data, tmp_path
):
    source, folder = tmp_path / "start.safetensors", tmp_path / "run"
    shutil.copy(files / "torch.safetensors", source)
    config = warm_config(data, source)
    train(config, folder, open_weights=open_warm_start)
    with pytest.raises(UserError, match=r"init was '.*start.safetensors' and is now '.*'; .*--config\.init="):
        train(warm_config(data, run), folder, open_weights=open_warm_start)
    shutil.rmtree(folder / "checkpoints")
    state = to_torch(load_encoder(source).variables)
    save_file(state | {"bn1.bias": np.float32(1) + state["bn1.bias"]}, source, {"stem": "small"})
    with pytest.raises(UserError, match=r"holds other weights than .* began from: choose another --workdir"):
        train(config, folder, open_weights=open_warm_start)
