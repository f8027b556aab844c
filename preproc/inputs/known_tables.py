"""Which published tables of regional series hold the regions of which part of an atlas.

XCP-D (PennLINC, docs/outputs.rst): "4S456Parcels" is Schaefer-400 and 56 subcortical regions (of other
atlases than Tian's), for every size N "4S{N+56}Parcels"; "Tian" is scale III; before 0.5 Schaefer-400 was
"Schaefer417". UK Biobank (Mansour L. et al. 2023, doi:10.1016/j.neuroimage.2023.120407):
"fMRI.Schaefer17n400p.csv.gz", "fMRI.Tian_Subcortex_S3_3T.csv.gz".
The number of parcels must come from the name of the table: names of regions repeat between the sizes.
"""

import re
from collections.abc import Callable

Options = list[str]  # tables that hold one part, the best first


def _xcpd_part(kind: str, size: int, order: str) -> Options:
    if kind == "schaefer":
        return [f"4S{size + 56}Parcels", f"Schaefer{size // 100}17"]
    return ["Tian"] if size == 3 else []


def _ukb_part(kind: str, size: int, order: str) -> Options:
    if kind == "schaefer":
        first, second = ("7", "17") if order == "7networks" else ("17", "7")
        return [f"Schaefer{first}n{size}p", f"Schaefer{second}n{size}p"]
    return [f"Tian_Subcortex_S{size}_3T"]


XCPD, UKB = _xcpd_part, _ukb_part


def tables_of_parts(atlas: str | None, source: Callable[[str, int, str], Options]) -> list[Options] | None:
    """For each part of an atlas the tables that hold it; None where a part is in no known table."""
    parts = [_parsed(part) for part in (atlas or "").split("+")]
    options = [source(*part) if part is not None else [] for part in parts]
    return options if all(options) else None


def _parsed(part: str) -> tuple[str, int, str] | None:
    if match := re.fullmatch(r"schaefer-(\d+)(?:-(7networks|17networks))?", part):
        return "schaefer", int(match[1]), match[2] or "17networks"
    if match := re.fullmatch(r"tian-s([1-4])", part):
        return "tian", int(match[1]), ""
    return None
