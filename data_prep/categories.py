"""The categories of annotations jsons: names by id."""

from collections.abc import Sequence
from typing import Any

from data_prep.findings import Findings, label
from data_prep.values import MAX_ID, key
from univip_jax.common.errors import UserError


def read_categories(listed: Any, annotations: Sequence[Any], findings: Findings) -> dict[int, str]:
    """Category names by id. A json that lists none has those of its annotations, named by their numbers."""
    names: dict[int, str] = {}
    for place, row in enumerate(listed if isinstance(listed, list) else ()):
        known = key(row.get("id")) if isinstance(row, dict) else None
        if not isinstance(known, int) or not 0 <= known <= MAX_ID or known in names:
            findings.add("categories_unusable", label(row, place))
            continue
        named = isinstance(name := row.get("name"), str) and name
        if not named:
            findings.add("categories_unnamed", known)
        names[known] = name if named else str(known)
    if not names:
        used = {key(one.get("category_id")) for one in annotations if isinstance(one, dict)}
        names = {known: str(known) for known in used if isinstance(known, int) and 0 <= known <= MAX_ID}
        findings.add("categories_unnamed", *sorted(names))
    return dict(sorted(names.items()))


def agreed(listed: Sequence[tuple[str, dict[int, str]]]) -> dict[int, str]:
    """The categories of several jsons, each given by its flag; those without any (COCO's image_info) agree with all.

    Raises UserError: two jsons have different ones.
    """
    given = [(source, names) for source, names in listed if names]
    for source, names in given[1:]:
        other, others = given[0]
        if differ := sorted(dict(names.items() ^ others.items())):
            one, two = (repr(each.get(differ[0], "missing")) for each in (names, others))
            raise UserError(
                f"{source} has other categories than {other}: id {differ[0]} is {one} and {two}; give jsons of the "
                "same categories, or prepare each with an --out of its own"
            )
    return given[0][1] if given else {}
