"""From a scan to shards: regional series, cleaned, resampled, scaled, with their origin."""

from bjepa.preproc.atlas import Atlas, load_atlas
from bjepa.preproc.errors import InputError
from bjepa.preproc.extract import RegionalScan, extract_timeseries
from bjepa.preproc.shards import ShardReader

__all__ = ["Atlas", "InputError", "RegionalScan", "ShardReader", "extract_timeseries", "load_atlas"]
