"""Ids and numbers of a json as people write them."""

import re
from typing import Any

LARGEST = 1e15  # of a number, so that sums and float32 hold it: no px and no score is larger
MAX_ID = 2**63 - 1  # of a category
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?")


def key(image_id: Any) -> Any:
    """An id as ids are compared: 7, 7.0 and "7" are one; None where it is no id."""
    if isinstance(image_id, str):
        text = image_id.strip()
        whole = _WHOLE.fullmatch(text)
        return int(whole[1]) if whole else text or None
    if isinstance(image_id, bool) or not isinstance(image_id, int | float):
        return None
    if isinstance(image_id, float):
        if not abs(image_id) < 2**53:  # NaN, and numbers that a float rounds to a neighbour's
            return None
        return int(image_id) if image_id.is_integer() else image_id
    return image_id


def number(value: Any) -> float | None:
    """A number of up to LARGEST, also of a text; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) <= LARGEST else None
