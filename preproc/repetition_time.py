"""The repetition time of a scan: as given, else of its sidecar, else of a header that can be believed."""

import logging

from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs import ScanSource

log = logging.getLogger(__name__)

PLAUSIBLE_T_R = (0.2, 10.0)  # s
PLACE_HOLDER_T_R = 1.0  # s: what many tools write into the header when they do not know


def decide_t_r(source: ScanSource, header_t_r: float | None, given: float | None) -> float:
    """Repetition time in s: as given, else of the sidecar or manifest, else of a believable header."""
    if given is not None:
        if source.t_r is not None and abs(source.t_r - given) > 1e-3:
            log.warning(
                "%s: its sidecar or manifest says t_r %g s, --t-r %g s is used.",
                *(source.path, source.t_r, given),
            )
        return given
    low, high = PLAUSIBLE_T_R
    if source.t_r is not None:
        if not low <= source.t_r <= high:
            raise InputError(
                f"{source.path}: its sidecar or manifest says t_r {source.t_r:g} s; {low} to {high} s are "
                "plausible.",
                hint="Mend RepetitionTime or t_r (seconds), or give --t-r.",
            )
        return source.t_r
    if header_t_r is None or not low <= header_t_r <= high:
        found = "none or 0" if header_t_r is None else f"{header_t_r:g} s"
        raise InputError(
            f"{source.path}: no usable repetition time (header: {found}; no sidecar).",
            hint="Give --t-r SECONDS.",
        )
    if header_t_r == PLACE_HOLDER_T_R and source.kind in ("volume", "raw"):
        raise InputError(
            f"{source.path}: the header's t_r of exactly 1 s is what tools write when they do not know it.",
            hint="Give --t-r SECONDS (also if it is 1).",
        )
    return header_t_r
