"""What a user may choose about raw fMRI."""

from dataclasses import dataclass

SEED = 0  # of the registration's random sampling


@dataclass(frozen=True, kw_only=True)
class RawOptions:
    """Part of the key of every stage, `omp_threads` too: with several threads sums differ in their last bits.

    allow_no_t1w : register a BOLD without T1w to the template itself; the scan is marked low quality
    slice_timing : shift each slice to the middle of the volume where the sidecar has SliceTiming
    omp_threads : threads of one registration
    sloppy : few iterations on coarse grids, for tests; never for data
    """

    allow_no_t1w: bool = False
    slice_timing: bool = False
    omp_threads: int = 1
    sloppy: bool = False
