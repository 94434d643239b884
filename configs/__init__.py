"""Experiments: each module's `get_config` gives one run's settings; `common` explains every field."""
