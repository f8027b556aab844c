"""What was given, as a list of scans."""

from bjepa.preproc.inputs.find import find_scans
from bjepa.preproc.inputs.source import Dataset, Kind, ScanFilter, ScanSource

__all__ = ["Dataset", "Kind", "ScanFilter", "ScanSource", "find_scans"]
