"""From a scan to shards: regional series, cleaned, resampled, scaled, with their origin."""

from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

__all__ = ["InputError", "ShardReader"]
