"""Before and after by a few labelled photos: each part against another way, and the intervals against the truth."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from univip_jax.common.errors import UserError
from univip_jax.data.labelled.sets import open_labelled
from univip_jax.evaluate import before_after
from univip_jax.evaluate.before_after import compare, cross_validate, judge_before_after, leave_one_out, open_few
from univip_jax.evaluate.features import extract
from univip_jax.report.judged import draw_judged
from univip_jax.types import Features
from univip_jax.weights.encoder import load_encoder


@pytest.fixture(scope="module")
def encoders(run) -> dict:
    return {"before": load_encoder(run, 2), "after": load_encoder(run, 4)}


def outcomes(total: int, only_before: int, only_after: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether photos were right before and after."""
    place = np.arange(total)
    before, after = place < only_before, (place >= only_before) & (place < only_before + only_after)
    return before | (place >= total - both), after | (place >= total - both)


@pytest.mark.parametrize(("only_before", "only_after"), [(0.02, 0.02), (0.15, 0.15), (0.02, 0.1)])
@pytest.mark.parametrize("total", [20, 400])
def test_intervals_hold_the_true_difference_in_more_than_95_of_100_sets(total, only_before, only_after):
    rng = np.random.default_rng(total)
    held = said = 0
    for seed in range(200):
        drawn = rng.multinomial(total, [0.9 - only_before - only_after, only_before, only_after, 0.1])
        found = compare(*outcomes(total, *drawn[1:]), seed=seed)
        change, truth = found["difference"], 100 * (only_after - only_before)
        held += change["low"] - 1e-9 <= truth <= change["high"] + 1e-9
        said += found["verdict"] != "open"
    assert held >= 200 * 0.95  # 0.98 less 3 standard errors
    if only_before == only_after:
        assert said == 200 - held
    elif total == 400:
        assert said > 190


def test_intervals_equal_a_loop_that_draws_photos():
    before, after = outcomes(600, 60, 110, 200)
    found = compare(before, after, seed=0)
    rng, loop = np.random.default_rng(1), []
    for _ in range(4000):
        photos = rng.integers(0, 600, 600)
        loop.append([before[photos].mean(), after[photos].mean(), after[photos].mean() - before[photos].mean()])
    for name, expected, drawn in zip(
        ("before", "after", "difference"), (260 / 6, 310 / 6, 50 / 6), np.array(loop).T, strict=True
    ):
        assert found[name]["top1"] == pytest.approx(expected)
        bounds = [found[name]["low"], found[name]["high"]]
        np.testing.assert_allclose(bounds, 100 * np.percentile(drawn, [1, 99]), atol=0.5)
    assert (found["only_before"], found["only_after"], found["verdict"]) == (60, 110, "better")
    assert compare(after, before, seed=0)["verdict"] == "worse"


def test_photos_that_all_agree_still_have_an_interval():
    found = compare(np.ones(20, bool), np.ones(20, bool), seed=0)
    assert found["before"]["low"] < 90 and found["difference"]["low"] < -5 < 5 < found["difference"]["high"]
    assert found["verdict"] == "open"


def test_leave_one_out_equals_a_loop_and_never_asks_the_photo_itself():
    """Rows 0 to 4 are one photo: where k = 2, photo 4 is not among the first three that are equal to it."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3)).astype(np.float32)
    features[:5] = features[0]
    labels = np.concatenate([[0, 0, 1, 1, 2], rng.integers(0, 3, 35)])
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    for k in (1, 2, 7):
        for photo, found in enumerate(leave_one_out(Features(features, labels), k)):
            others = np.delete(np.arange(40), photo)
            nearest = others[np.argsort(-np.round(unit[others] @ unit[photo], 6), kind="stable")[:k]]
            votes = np.bincount(labels[nearest], np.exp(unit[nearest] @ unit[photo] / 0.07), 3)
            assert found == np.round(votes / votes.sum(), 4).argmax(), (k, photo)


def test_probe_judges_each_photo_by_the_other_folds():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [4, 9, 12])
    features = (rng.normal(size=(25, 4)) + labels[:, None] * [1, 0, -1, 0]).astype(np.float32)
    expected = np.full(25, -1)
    for rest, test in StratifiedKFold(4, shuffle=True, random_state=3).split(features, labels):
        scaler = StandardScaler().fit(features[rest])
        probe = LogisticRegression(max_iter=2000).fit(scaler.transform(features[rest]), labels[rest])
        expected[test] = probe.predict(scaler.transform(features[test]))
    np.testing.assert_array_equal(cross_validate(Features(features, labels), 4, seed=3), expected)


def test_results_sentences_and_page(run, labelled, encoders, tmp_path, capsys, monkeypatch):
    photos = shutil.copytree(labelled, tmp_path / "photos")
    shutil.copy(photos / "dark" / "3.png", photos / "light" / "copy <b>.png")
    (photos / "only").mkdir()
    Image.new("RGB", (40, 40), "red").save(photos / "only" / "red.png")
    found = judge_before_after(tmp_path, str(photos), **encoders, batch_size=8)
    assert json.loads((tmp_path / "before_after.json").read_text()) == found
    assert found["photos_of_class"] == {"dark": 12, "light": 12} and (found["k"], found["folds"]) == (11, 5)
    assert (found["photos"], found["step"], found["before"]["step"], found["largest_class"]) == (24, 4, 2, 50.0)
    features, labels = extract(encoders["after"], open_labelled(str(labelled)), 32, 8)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T - 9 * np.eye(24)
    votes = []
    for row in cosine:
        nearest = np.argsort(-row)[:11]
        votes.append(np.bincount(labels[nearest], np.exp(row[nearest] / 0.07), 2))
    assert found["knn"]["after"]["top1"] == pytest.approx(100 * np.mean(np.argmax(votes, 1) == labels))
    printed = capsys.readouterr().out.splitlines()
    assert re.match(r"1 of 26 labelled photos have the same bytes .* left out, .*: .*/light/copy <b>\.png$", printed[0])
    assert re.match(r"1 of 3 classes have fewer than two photos and are left out, .*: only$", printed[1])
    assert re.match(r"k-NN \d.* -> \d.* %, [+-]\d.* \(95 %: -\d.* to \+\d.*\): no difference that these 24", printed[2])
    assert printed[3:] == [found["logistic"]["sentence"]]

    page, wrong = draw_judged(tmp_path)
    assert not wrong and "copy &lt;b&gt;.png" in page and "<b>." not in page
    assert page.count("no difference that these 24 photos can show") == 2 and page.count("<tr><td>") == 2

    monkeypatch.setattr(before_after, "extract", lambda *_: pytest.fail("features were computed again"))
    assert judge_before_after(tmp_path, str(photos), **encoders) == found
    assert capsys.readouterr().out.splitlines() == printed
    with pytest.raises(pytest.fail.Exception, match="again"):
        judge_before_after(tmp_path, str(photos), **encoders, seed=1)


def test_the_page_says_nothing_where_nobody_judged_and_names_a_damaged_file(tmp_path):
    assert draw_judged(tmp_path) == ("", [])
    (tmp_path / "before_after.json").write_text('{"knn"')
    assert draw_judged(tmp_path)[1][0].endswith("before_after.json is damaged: delete it, and judge the run again")


def test_sets_that_cannot_judge_are_refused(labelled, voc, tmp_path):
    with pytest.raises(UserError, match=r"photos of .*:trainval show several classes, but each needs one: give"):
        open_few(f"{voc}:trainval")
    for part in ("train", "val"):
        shutil.copytree(labelled, tmp_path / "parts" / part)
    with pytest.raises(UserError, match=r"/parts holds train and val, which are parts .*, as .*/parts/train$"):
        open_few(str(tmp_path / "parts"))
    copies = shutil.copytree(labelled / "dark", tmp_path / "copies" / "dark").parent
    shutil.copytree(labelled / "dark", copies / "light")
    with pytest.raises(UserError, match=r"copies has 1 classes of two photos or more, at least 2 .*12 of 24 .*: add"):
        open_few(str(copies))
