"""What a ViewSpec refuses."""

from dataclasses import replace

import pytest

from configs import coco
from univip_jax.common.errors import UserError
from univip_jax.config import to_spec
from univip_jax.views import ViewSpec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("proposals", "none"),
        ("pick", "best"),
        ("num_trials", 0),
        ("num_instances", 65),
        ("num_instances", -1),
        ("area", (0.0, 1.0)),
        ("area", (0.5, 0.4)),
        ("aspect", (2.0, 1.0)),
        ("scene_size", 0),
    ],
)
def test_view_spec_refuses_bad_values_by_field_name(field, value):
    spec = to_spec(ViewSpec, coco.get_config(), "views")
    with pytest.raises(UserError, match=f"views.{field}="):
        replace(spec, **{field: value})
