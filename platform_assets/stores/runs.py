"""Trials and registered models in MLflow, found by their tags and never by an active run. No metric arithmetic here."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
