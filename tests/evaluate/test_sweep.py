"""Sweeps over checkpoints and seeds: work that is skipped or refused, and the figures at the end."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs import knn
from univip_jax.common.errors import UserError
from univip_jax.evaluate.knn import evaluate
from univip_jax.evaluate.results import read_results, write_results
from univip_jax.evaluate.sweep import sweep


def small_knn(run, labelled):
    config = knn.get_config()
    config.pretrained, config.data.train, config.data.test = str(run), str(labelled), str(labelled)
    config.k, config.batch_size, config.image_size = (3,), 8, 32
    return config


def read(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


class Scorer:
    """Stands for an evaluation: its score is 10 x seed + step. It notes what it was asked, and skips what is done."""

    def __init__(self, fingerprint: str = "a", stop_at: int = 100):
        self.asked, self._fingerprint, self._stop_at = [], fingerprint, stop_at

    def __call__(self, config, workdir):
        if read_results(workdir) is not None:
            return
        if len(self.asked) == self._stop_at:
            raise KeyboardInterrupt
        self.asked.append((config.step, config.seed))
        test = {"name": config.data.test, "images": 24, "fingerprint": self._fingerprint}
        score = 10.0 * config.seed + config.step
        write_results(workdir, {"protocol": "scored", "top1": score, "pretrained": config.pretrained, "test": test})


def test_sweep_knn_over_all_checkpoints(run, labelled, tmp_path, capsys):
    config = small_knn(run, labelled)
    sweep(evaluate, config, tmp_path / "sweep", steps=["all"], seeds=[])
    found = read(tmp_path / "sweep")
    assert (config.step, config.seed) == (0, 0)  # the caller's stays as it was
    config.step = 2
    evaluate(config, tmp_path / "alone")
    alone = read(tmp_path / "alone")
    assert read(tmp_path / "sweep/step_2_seed_0") == alone
    assert [(each["step"], each["seed"]) for each in found["runs"]] == [(2, 0), (4, 0)]
    assert found["runs"][0]["top1"] == alone["top1"]
    assert found["top1"] == found["runs"][1]["top1"] == read(tmp_path / "sweep/step_4_seed_0")["top1"]
    assert (found["step"], found["std"], found["test"]) == (4, None, alone["test"])
    assert "        2      0" in capsys.readouterr().out


def test_sweep_mean_and_std_over_seeds(run, labelled, tmp_path):
    sweep(scorer := Scorer(), small_knn(run, labelled), tmp_path, steps=["4", "2"], seeds=["7", "0", "2"])
    assert scorer.asked == [(2, 0), (2, 2), (2, 7), (4, 0), (4, 2), (4, 7)]
    found = read(tmp_path)
    for entry, step in zip(found["steps"], (2, 4), strict=True):
        scores = np.array([0, 20, 70]) + step
        assert entry["step"] == step
        np.testing.assert_allclose([entry["mean"], entry["std"]], [scores.mean(), scores.std(ddof=1)])
    assert (found["mean"], found["seeds"]) == (34, [0, 2, 7])


def test_sweep_resumes_and_may_be_extended(run, labelled, tmp_path):
    config = small_knn(run, labelled)
    with pytest.raises(KeyboardInterrupt):
        sweep(Scorer(stop_at=3), config, tmp_path, steps=["all"], seeds=["0", "1"])
    (tmp_path / "step_2_seed_1" / "results.json").write_text('{"protocol": "to')  # cut off
    sweep(scorer := Scorer(), config, tmp_path, steps=["all"], seeds=["0", "1"])
    assert scorer.asked == [(2, 1), (4, 1)]
    sweep(scorer := Scorer(), config, tmp_path, steps=["newest"], seeds=["0", "1", "2"])
    assert scorer.asked == [(4, 2)]
    assert read(tmp_path)["mean"] == 14


def test_sweep_with_a_drawn_subset_per_seed(run, labelled, tmp_path):
    """As `semi` does with data.subset=drawn; the set that they are drawn from must stay the same."""

    def scorer(drawn_from: str):
        def evaluate(config, workdir):
            if read_results(workdir) is not None:
                return
            result = {
                "top1": 50.0,
                "seed": config.seed,
                "train": f"drawn by seed {config.seed}",
                "protocol": "semi_orl",
            }
            write_results(workdir, result | {"drawn_from": drawn_from})

        return evaluate

    config = small_knn(run, labelled)
    sweep(scorer("photos"), config, tmp_path, steps=["4"], seeds=["0", "1"])
    assert read(tmp_path)["seeds"] == [0, 1]


def test_sweep_with_other_settings_or_photos_is_refused(run, labelled, tmp_path):
    config = small_knn(run, labelled)
    sweep(evaluate, config, tmp_path, steps=["2"], seeds=[])
    config.temperature = 0.5
    with pytest.raises(UserError, match=r"step_2_seed_0 holds an evaluation of other settings: temperature was 0\.07"):
        sweep(evaluate, config, tmp_path, steps=["all"], seeds=[])
    config.temperature, config.data.test = 0.07, str(shutil.copytree(labelled, tmp_path / "photos"))
    (tmp_path / "photos/dark/0.png").unlink()
    with pytest.raises(UserError, match=r"step_2_seed_0 holds an evaluation of other settings: test was '\w+' and is"):
        sweep(evaluate, config, tmp_path, steps=["all"], seeds=[])


@pytest.mark.parametrize(
    ("pretrained", "steps", "seeds", "message"),
    [
        ("run", ["3"], [], r"has no checkpoint of step 3; it has \[2, 4\]"),
        ("run", ["al"], [], "--steps=al must be a list of numbers"),
        ("run", [], ["0", "x"], "--seeds=0,x must be a list of numbers"),
        ("random", ["all"], [], "pretrained=random has no checkpoints"),
    ],
)
def test_sweep_refuses_wrong_steps_and_seeds(run, labelled, tmp_path, pretrained, steps, seeds, message):
    config = small_knn(run if pretrained == "run" else pretrained, labelled)
    with pytest.raises(UserError, match=message):
        sweep(scorer := Scorer(), config, tmp_path, steps=steps, seeds=seeds)
    assert not scorer.asked


def test_sweep_of_an_untrained_network(labelled, tmp_path):
    sweep(scorer := Scorer(), small_knn("random", labelled), tmp_path, steps=[], seeds=["1", "2"])
    assert scorer.asked == [(0, 1), (0, 2)]
    config = small_knn("random", labelled)
    config.step = 3
    with pytest.raises(UserError, match="pretrained=random has no checkpoints, but step=3"):
        evaluate(config, tmp_path)
