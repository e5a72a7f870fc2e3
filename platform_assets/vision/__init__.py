"""The vision layer: pure Python and torch. Loads no dagster, mlflow, dvc or duckdb."""

import os
import sys

if sys.platform == "darwin":
    # Read when torch is imported: an operator that MPS lacks runs on the CPU (see fallbacks.py) instead of ending a training.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
