"""Statistics of proposals against counts by hand."""

import numpy as np
import pytest

from data_prep import proposal_stats

NONE = np.zeros([0, 4], np.float32)


def count(proposals, objects=NONE, height=100, width=200):
    return proposal_stats.of_photo(
        np.array(proposals, np.float32).reshape(-1, 4), np.array(objects, np.float32), height, width
    )


def lines(photo):
    return proposal_stats.lines(proposal_stats.of_dataset([proposal_stats.of_shard([photo])]))


def test_boxes_are_counted_by_side_and_aspect():
    # 64 x 64 px, 100 x 50 px (root of the area 70.7), and the whole photo: 100 x 200 px (141.4).
    counts = count([[0.0, 0.0, 0.64, 0.32], [0.0, 0.5, 1.0, 0.75], [0.0, 0.0, 1.0, 1.0]])
    assert counts.num_boxes == 3
    sides = dict(zip(proposal_stats.SIDE_EDGES_PX, counts.sides.tolist(), strict=True))
    assert (sides[0], sides[64], sides[96], sides[128]) == (0, 2, 0, 1) and counts.sides.sum() == 3
    aspects = dict(zip(proposal_stats.ASPECT_EDGES, counts.aspects.tolist(), strict=True))
    assert (aspects[0.5], aspects[0.8], aspects[2]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("proposals", "share"),
    [
        ([], 0),
        ([[0.0, 0.0, 1.0, 1.0]], 0),  # larger than half of the photo: says nothing
        ([[0.0, 0.0, 1.0, 0.5]], 1 / 2),
        ([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]], 7 / 16),
        ([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]], 1),
    ],
)
def test_covered_is_the_share_of_the_union(proposals, share):
    assert count(proposals).covered == share * 64**2


def test_recall_counts_large_objects_with_an_iou_of_half():
    objects = [
        [0.0, 0.0, 0.64, 0.32],  # 64 x 64 px; the box of 64 x 128 px meets it with exactly 1/2
        [0.3, 0.5, 1.0, 1.0],  # 70 x 100 px, far from every box
        [0.0, 0.0, 0.63, 0.64],  # 63 px: too small to count
    ]
    counts = count([[0.0, 0.0, 0.64, 0.64]], objects)
    assert (counts.num_objects, counts.num_found) == (2, 1)
    assert count([], objects)[-2:] == (2, 0) and count([[0.0, 0.0, 1.0, 1.0]])[-2:] == (0, 0)


def test_statistics_do_not_depend_on_the_order_of_shards():
    photos = [
        count([[0.0, 0.0, 1.0, 0.5]] * number, [[0.0, 0.0, 1.0, 0.5]] if number % 2 else NONE) for number in range(9)
    ]
    one = proposal_stats.of_dataset([proposal_stats.of_shard(photos)])
    parts = [proposal_stats.of_shard(photos[5:]), proposal_stats.of_shard([]), proposal_stats.of_shard(photos[:5])]
    assert proposal_stats.of_dataset(parts) == one
    assert (one["mean"], one["min"], one["max"]) == (4.0, 0, 8)
    shares = [one[f"share_below_{few}"] for few in (2, 4, 8)]
    assert shares == [pytest.approx(n / 9, abs=1e-4) for n in (2, 4, 8)]
    assert one["covered"] == pytest.approx(8 / 9 / 2, abs=1e-4)
    assert (one["num_objects"], one["num_found"], one["recall"]) == (4, 4, 1.0)
    assert sum(one["boxes_a_photo"]["counts"]) == 9 and one["covered_percent"]["counts"][5] == 8
    assert sum(one["sides_px"]["counts"]) == sum(one["aspects"]["counts"]) == 36


def test_lines_hold_the_figures():
    words = "\n".join(lines(count([[0.0, 0.0, 0.64, 0.32]])))
    assert "boxes per photo: mean 1.0, 1 to 1" in words and "100.0% have fewer than 4" in words
    assert "100% in 64-96" in words and "100% in 0.8-1.25" in words and "recall" not in words
    found = count([[0.0, 0.0, 1.0, 1.0]], [[0.0, 0.0, 1.0, 0.9], [0.0, 0.0, 0.7, 0.4]])
    assert "1 of 2 annotated objects" in lines(found)[-1]
