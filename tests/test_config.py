"""Fields by name, a run's config.json, and the recipes against the paper's tables."""

import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import coco, coco_plus, detection, imagenet
from univip_jax.common.errors import UserError
from univip_jax.config import flatten, to_spec
from univip_jax.losses import LossSpec
from univip_jax.plan import make_plan
from univip_jax.run.folder import BEFORE, FREE_FIELDS, check_config, read_config, write_config


@dataclass(frozen=True)
class Spec:
    epsilon: float
    num_iters: int


def section(**fields) -> ConfigDict:
    return ConfigDict({"transport": fields})


def test_to_spec_fills_the_dataclass():
    assert to_spec(Spec, section(epsilon=0.5, num_iters=3), "transport") == Spec(0.5, 3)


def test_to_spec_names_an_unknown_field_and_the_nearest():
    with pytest.raises(UserError, match=r"transport\.epsilom is unknown: did you mean epsilon\?"):
        to_spec(Spec, section(epsilom=0.5, num_iters=3), "transport")


def test_to_spec_lists_all_where_none_is_near():
    with pytest.raises(UserError, match=r"transport\.zzz is unknown: there are epsilon, num_iters"):
        to_spec(Spec, section(epsilon=0.5, num_iters=3, zzz=1), "transport")


def test_to_spec_names_a_missing_field():
    with pytest.raises(UserError, match=r"transport\.num_iters is missing"):
        to_spec(Spec, section(epsilon=0.5), "transport")


def test_flatten_resolves_references_and_tuples():
    config = coco.get_config()
    config.views.num_instances = 6
    flat = flatten(config)
    assert flat["views.num_instances"] == flat["views.min_proposals"] == 6
    assert flat["augment.blur"] == [1.0, 0.1]
    assert flat["seed"] == 0


def test_fewer_proposals_in_the_overlap_leave_k_as_it_is():
    config = coco.get_config()
    config.views.min_proposals = 1
    assert config.views.num_instances == 4


def claim(folder, config):
    """As a training does it."""
    check_config(folder, config)
    write_config(folder, config)


def test_check_config_refuses_another_run_by_the_field_s_name(tmp_path):
    config = coco.get_config()
    claim(tmp_path, config)
    claim(tmp_path, config)  # the same run goes on
    before = (tmp_path / "config.json").read_text()
    config.loss.scale = 1.0
    with pytest.raises(UserError, match=r"loss\.scale was 2\.0 and is now 1\.0"):
        claim(tmp_path, config)
    assert (tmp_path / "config.json").read_text() == before


def test_a_field_may_be_changed_on_purpose_by_its_name_and_no_other_with_it(tmp_path, capsys):
    config = coco.get_config()
    claim(tmp_path, config)
    config.loss.scale, config.allow_changes = 1.0, "optimizer.lr, loss.scale"
    claim(tmp_path, config)
    assert "changed on purpose: loss.scale was 2.0 and is now 1.0" in capsys.readouterr().out
    assert read_config(tmp_path).loss.scale == 1.0
    config.seed = 1
    with pytest.raises(UserError, match=r"seed was 0 and is now 1.*--config\.allow_changes=seed"):
        claim(tmp_path, config)


def test_the_labelled_set_of_a_running_k_nn_may_change(tmp_path):
    config = coco.get_config()
    claim(tmp_path, config)
    config.knn.every_steps, config.knn.train = 10, "elsewhere"
    claim(tmp_path, config)
    assert read_config(tmp_path).knn.train == "elsewhere"


@pytest.mark.parametrize("name", FREE_FIELDS)
def test_check_config_accepts_another_value_of_a_free_field(tmp_path, name):
    config = next(config for config in (coco.get_config(), detection.get_config()) if name in flatten(config))
    claim(tmp_path, config)
    old = flatten(config)[name]
    new = "elsewhere" if isinstance(old, str) else type(old)(77)
    config.update_from_flattened_dict({name: new})
    claim(tmp_path, config)
    assert flatten(read_config(tmp_path))[name] == new


def test_config_json_is_the_resolved_config(tmp_path):
    config = coco.get_config("table8=k2")
    claim(tmp_path, config)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["views"]["num_instances"] == stored["views"]["min_proposals"] == 2
    assert flatten(read_config(tmp_path)) == flatten(config)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_run_older_than_a_field_keeps_the_behaviour_of_its_day(tmp_path, monkeypatch):
    """It is read with that behaviour, and resumed by what the refusal says."""
    claim(tmp_path, coco.get_config())
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    for name in BEFORE:
        section, _, field = name.rpartition(".")
        del (stored[section] if section else stored)[field]
    path.write_text(json.dumps(stored))
    found = flatten(read_config(tmp_path))
    assert {name: found[name] for name in BEFORE} == BEFORE
    make_plan(read_config(tmp_path), num_images=118287)
    with pytest.raises(UserError, match=r"cut its views on the host, .* by --config\.allow_changes=.*views\.canvas"):
        claim(tmp_path, coco.get_config())  # no value of the field would do
    stored["views"]["canvas"] = 640
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError) as refusal:
        claim(tmp_path, coco.get_config())
    argv = ["main.py", *shlex.split(re.search(r"resume this run by (.*), or", str(refusal.value))[1])]
    monkeypatch.setattr(sys, "argv", argv)  # config_flags looks for its overrides there
    config, values = coco.get_config(), flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values)
    values(argv)
    claim(tmp_path, config)


def test_read_config_says_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(UserError, match="is no run"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": 0, "da')
    with pytest.raises(UserError, match="damaged"):
        read_config(tmp_path)


# The rows of the paper's Tables 7 and 8. Overlap, weights of (scene-instance, instance), K, proposals.
ROWS = {
    "table7=a": (False, 0, 0, 4, "stored"),
    "table7=b": (True, 0, 0, 4, "stored"),
    "table7=c": (True, 1, 0, 4, "stored"),
    "table7=d": (True, 0, 1, 4, "stored"),
    "table7=e": (True, 1, 1, 4, "stored"),
    "table8=random_views": (False, 1, 1, 4, "stored"),
    "table8=none": (True, 0, 0, 4, "stored"),
    "table8=annotated": (True, 1, 1, 4, "annotated"),
    "table8=naive": (True, 1, 1, 4, "naive"),
    "table8=selective_search": (True, 1, 1, 4, "stored"),
    "table8=k0": (True, 0, 0, 4, "stored"),
    "table8=k2": (True, 1, 1, 2, "stored"),
    "table8=k4": (True, 1, 1, 4, "stored"),
    "table8=k8": (True, 1, 1, 8, "stored"),
    "table7=c,table8=k8": (True, 1, 0, 8, "stored"),
    "": (True, 1, 1, 4, "stored"),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_the_ablations(row):
    config = coco.get_config(row)
    found = config.views.overlap, config.loss.scene_instance, config.loss.instance
    assert (*found, config.views.num_instances, config.views.proposals) == ROWS[row]
    assert config.loss.scene == 1
    assert config.views.min_proposals == config.views.num_instances
    # A row changes nothing else.
    told = {"views.overlap", "views.num_instances", "views.min_proposals", "views.proposals"}
    told |= {"loss.scene_instance", "loss.instance", "row"}
    plain, flat = flatten(coco.get_config()), flatten(config)
    assert {name for name in plain if plain[name] != flat[name]} <= told and plain.keys() == flat.keys()


@pytest.mark.parametrize("row", ["table7=a", "table7=b", "table8=none", "table8=k0"])
def test_rows_without_instance_terms_crop_no_instance(row):
    assert make_plan(coco.get_config(row), num_images=118287).views.num_instances == 0


@pytest.mark.parametrize("row", ["table7=f", "table9=a", "k2", "table8=", "table7=a,table8=k3"])
@pytest.mark.parametrize("config", [coco, coco_plus, imagenet])
def test_an_unknown_row_lists_the_rows(row, config):
    with pytest.raises(ValueError, match=r"table7=a\|b\|c\|d\|e or table8=.*selective_search.*k0\|k2\|k4\|k8"):
        config.get_config(row)


ROW = r"^\| `(\S+)` \| ([^|]+) \| ([^|]+) \|"
BRACKETS = str.maketrans("()", "[]")  # a tuple of Python, as JSON
RECIPES = {  # the paper's
    coco: ("sgd", 1e-4, 512, 0.4, 4, 800),
    coco_plus: ("sgd", 1e-4, 512, 0.4, 4, 800),
    imagenet: ("lars", 1e-6, 4096, 4.8, 10, 300),
}


@pytest.mark.parametrize("config", RECIPES, ids=lambda module: module.__name__)
def test_recipes_are_the_paper_s(config):
    name, decay, batch, peak, warmup, epochs = RECIPES[config]
    found = config.get_config()
    assert (found.optimizer.name, found.optimizer.weight_decay, found.batch_size) == (name, decay, batch)
    assert (found.optimizer.momentum, found.optimizer.trust_coefficient) == (0.9, 1e-3)
    assert (found.views.num_instances, found.views.scene_size, found.views.instance_size) == (4, 224, 96)
    assert (found.model.backbone, found.model.hidden, found.model.projection) == ("resnet50", 4096, 256)
    assert (found.transport.epsilon, found.transport.num_iters, found.loss.scale) == (0.1, 50, 2)
    plan = make_plan(found, num_images=batch * 10)
    assert (plan.steps_per_epoch, plan.total_steps) == (10, 10 * epochs)
    rates = [float(plan.learning_rate()(10 * epoch)) for epoch in (0, warmup / 2, warmup, epochs)]
    assert rates == pytest.approx([0, peak / 2, peak, 0], rel=1e-5, abs=1e-7)
    assert float(plan.target_momentum()(jnp.asarray(0))) == pytest.approx(0.99)


def test_the_recipe_of_the_docs_is_that_of_the_configs():
    """Each row of the table, in each config; and no field that tells COCO from ImageNet is left out of it."""
    page = (Path(__file__).parents[1] / "docs" / "reproduction.md").read_text()
    section = page.split("## Recipe")[1].split("\n## ")[0]
    table = {name: (on_coco, on_imagenet) for name, on_coco, on_imagenet in re.findall(ROW, section, re.MULTILINE)}
    flat = {module: flatten(module.get_config()) for module in (coco, coco_plus, imagenet)}
    for name, (on_coco, on_imagenet) in table.items():
        for module, told in ((coco, on_coco), (coco_plus, on_coco), (imagenet, on_imagenet)):
            value = flat[module][name]
            assert value == (told if isinstance(value, str) else json.loads(told.lower().translate(BRACKETS))), name
    differ = {name for name, value in flat[coco].items() if value != flat[imagenet][name]}
    assert differ - {"row", "data.train"} <= table.keys() and len(table) >= 15


def test_augmentation_is_byol_s():
    """BYOL's: (scene 1 and instances, scene 2)."""
    found = coco.get_config().augment
    assert (found.flip, found.jitter, found.greyscale) == (0.5, 0.8, 0.2)
    assert (found.brightness, found.contrast, found.saturation, found.hue) == (0.4, 0.4, 0.2, 0.1)
    assert (found.blur, found.blur_sigma, found.solarize) == ((1.0, 0.1), (0.1, 2.0), (0.0, 0.2))


def test_a_plan_of_num_steps_ignores_num_epochs():
    config = coco.get_config()
    config.num_steps = 5000
    assert make_plan(config, num_images=118287).total_steps == 5000
    assert make_plan(config, num_images=118287).steps_per_epoch == 231


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("log_every_steps", 0),
        ("views.num_instances", 0),
        ("num_epochs", 0.0),
        ("optimizer.warmup_epochs", 800.0),
        ("loss.scene", -1.0),
        ("ema.base", 2.0),
    ],
)
def test_a_plan_names_the_value_that_cannot_be(name, value):
    config = coco.get_config()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=f"{name}={value}"):
        make_plan(config, num_images=118287)


def test_a_misspelt_field_stops_the_plan():
    config = coco.get_config()
    config.loss.instanse = config.loss.instance
    with pytest.raises(UserError, match=r"loss\.instanse is unknown: did you mean instance\?"):
        to_spec(LossSpec, config, "loss")
