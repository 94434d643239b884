"""What in a prepared data set cannot teach, in words, from the numbers in its manifest."""

from typing import Any

from univip_jax.views import ViewSpec

# Shares of the photos from which a line is worth it; of 128 photos of COCO's, one is below 224 px and that is all.
_COPIES, _UNIFORM, _SMALL, _WITHOUT_BOX = 0.01, 0.01, 0.1, 0.2
_LEAST_SIDE = 16  # px, of a photo that may teach something


def photo_warnings(manifest: dict[str, Any], views: ViewSpec | None = None) -> list[str]:
    """A line for each kind of photo that cannot teach: how many, what follows, the way out.

    Args:
        manifest: of the data set. What an older one does not count is not told.
        views: of the training that reads the data set; None: at preparation.
    """
    found = []
    if stats := manifest.get("photo_stats"):
        found = [_copies(stats), _uniform(stats), _small(stats, manifest.get("settings", {}), views)]
    return [line for line in (*found, _without_box(manifest, views)) if line]


def _copies(stats: dict[str, Any]) -> str:
    total, copies, distinct = _total(stats), stats["num_copies"], stats["num_distinct"]
    if copies <= _COPIES * total:
        return ""
    first = _names(stats["largest_group_first"])
    if distinct == 1:
        return (
            f"{copies} of {total} photos are copies of one (first: {first}): the network can only learn to tell crops "
            "of one photo apart; add other photos"
        )
    return (
        f"{copies} of {total} photos are copies of each other, {distinct} photos are distinct; the largest group has "
        f"{stats['largest_group']} (first: {first}): copies teach nothing new, and weigh more than other photos; "
        "keep one of each"
    )


def _uniform(stats: dict[str, Any]) -> str:
    total, uniform = _total(stats), stats["num_uniform"]
    if uniform <= _UNIFORM * total:
        return ""
    return (
        f"{uniform} of {total} photos are uniform, of one colour (first: {_names(stats['uniform_first'])}): all "
        "their crops look the same, so nothing can be learned from them; check how they were written, or remove them"
    )


def _small(stats: dict[str, Any], settings: dict[str, Any], views: ViewSpec | None) -> str:
    total = _total(stats)
    follows = "training enlarges their crops, and blurs them by it"
    if views is not None:
        limit, flag = views.scene_size, "--config.views.scene_size"
        name = f"views.scene_size={limit}"
    elif (limit := settings.get("min_side", 0)) >= _LEAST_SIDE:
        name, flag = f"--min_side={limit}", "--min_side"
        if settings.get("proposals") not in ("none", "annotated"):
            follows = f"no box fits in them, and {follows}"
    else:
        limit, name, flag = _LEAST_SIDE, str(_LEAST_SIDE), ""
    small = _num_below(stats, limit)
    if small <= _SMALL * total:
        return ""
    smallest, first = min(map(int, stats["shorter_sides_px"])), _names(stats["smallest_first"])
    fitting = [side for side in range(32, limit, 32) if _num_below(stats, side) <= _SMALL * total]
    return (
        f"{small} of {total} photos are too small, their shorter side is below {name} px (the smallest: "
        f"{smallest} px, {first}): {follows}; take larger photos"
        + (f", or give {flag}={fitting[-1]}" if fitting else "")
    )


def _without_box(manifest: dict[str, Any], views: ViewSpec | None) -> str:
    """The photos without a box; at preparation without those that are too small for one, of which `_small` tells."""
    settings, total = manifest.get("settings", {}), manifest["num_records"]
    proposals = settings.get("proposals")
    if views is None:
        used = proposals not in (None, "none")
    else:
        used = views.proposals == "stored" and (views.overlap or views.num_instances > 0)
    if not used or "boxes_a_photo" not in manifest.get("proposals", {}):
        return ""
    without, small, fits_half = manifest["proposals"]["boxes_a_photo"]["counts"][0], 0, True
    if (stats := manifest.get("photo_stats")) and proposals != "annotated":
        small = _num_below(stats, settings.get("min_side", 0))
        fits_half = _num_below(stats, settings.get("min_side", 0) // 2) <= _SMALL * total
    if views is None and small > _SMALL * total:
        without, small = without - small, 0
    if without <= _WITHOUT_BOX * total:
        return ""
    ways = _more_boxes(settings, fits_half, most_are_small=without - small <= _WITHOUT_BOX * total)
    return f"{without} of {total} photos have no box: training takes random crops of them for objects; " + (
        f"prepare again with {' or '.join(ways)}" if ways else "take other photos"
    )


def _more_boxes(settings: dict[str, Any], fits_half: bool, most_are_small: bool) -> list[str]:
    """Flags of preparation that would give more boxes; `fits_half`: most photos hold boxes of half the least side."""
    kind, min_side = settings.get("proposals"), settings.get("min_side", 0)
    searched = kind == "selective_search"
    helps = {
        f"--min_side={min_side // 2}": kind in ("selective_search", "naive") and min_side >= _LEAST_SIDE and fits_half,
        "--search_mode=quality": searched and settings.get("search_mode") != "quality" and not most_are_small,
        "--proposals=selective_search": not searched and not most_are_small,
    }
    return [flag for flag, does in helps.items() if does]


def _num_below(stats: dict[str, Any], limit: int) -> int:
    """Photos whose shorter side is below `limit` px."""
    return sum(number for side, number in stats["shorter_sides_px"].items() if int(side) < limit)


def _total(stats: dict[str, Any]) -> int:
    return sum(stats["shorter_sides_px"].values())


def _names(ids: list[str]) -> str:
    """In quotes: a name may hold a line's end."""
    return ", ".join(map(repr, ids))
