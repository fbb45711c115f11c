"""All planted errors, by name."""

from __future__ import annotations

from tests.model.plants import admission, attempts, readers

PLANTS = admission.PLANTS | attempts.PLANTS | readers.PLANTS
