"""How long the model tests run: few steps in CI, as many as wished by hand."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("TRUNKLINE_MODEL_EXAMPLES", "40"))

MODEL = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    derandomize="TRUNKLINE_MODEL_EXAMPLES" not in os.environ,  # CI runs the same steps every time
    suppress_health_check=list(HealthCheck),
)
