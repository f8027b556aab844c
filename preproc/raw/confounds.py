"""What moves a run's signal but is not the brain's activity, under fMRIPrep's names and in its units.

    global_signal, csf, white_matter, csf_wm   mean over the brain, the ventricles, white matter, both; in the
                                               scan's units
    dvars                                      RMS over the brain of the change from frame to frame, where
                                               the brain's median over voxels and frames is 1000
    std_dvars                                  the same over what noise alone would give (below)
    framewise_displacement                     mm (Power et al. 2012)
    c_, w_, a_comp_cor_NN                      aCompCor of ventricles, white matter, both (compcor.py)
    cosineNN                                   drifts slower than 128 s, of the steady frames
    non_steady_state_outlierNN                 1 in one of the first frames, whose signal is not steady yet
    trans_x, ... rot_z                         of the head in every frame; mm, rad
    motion_outlierNN                           1 in one frame with FD above 0.5 mm or std_dvars above 1.5
    *_derivative1, *_power2, ..._power2        difference to the frame before; squares

    std_dvars[t] = dvars[t] / mean over voxels of  sd sqrt(2 (1 - r))

sd is robust, (75th - 25th percentile) / 1.349, r the voxel's correlation with itself one frame later; voxels
without variance are left out (Nichols 2017, arXiv:1704.01469; as fMRIPrep computes it). Drifts and CompCor
are 0 in the frames that are not steady; derivatives, DVARS and FD are n/a in the first frame. As in fMRIPrep,
a motion outlier may be a frame that is not steady. There is no tCompCor, ICA-AROMA or rmsd.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.compcor import PERIOD, Components, components, cosine_drifts, covariance_over_time
from bjepa.preproc.raw.tissue import TissueMasks

if TYPE_CHECKING:
    import pandas as pd

    from bjepa.preproc.raw.motion import Motion

FD_LIMIT = 0.5  # mm
STD_DVARS_LIMIT = 1.5
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
MAX_BYTES = 200 << 20  # of the series of one mask: 100,000 voxels of 520 frames
_MEDIAN = 1000.0  # of the brain, in the units of dvars
_CHUNK = 4096  # voxels worked on at once

F = NDArray[np.float64]


class RunSignals:
    """Gathers what the confounds are computed from while the frames of a run go by, each once.

    Kept: series of brain, white matter and ventricles as float32. Where those of a mask would need more than
    `max_bytes`, every 2nd, 3rd, ... of its voxels is kept, and the JSON of the table says so.
    A voxel that is 0 or not finite in some frame (moved out of the field of view) counts in no signal.
    """

    def __init__(
        self,
        masks: TissueMasks,
        voxels: NDArray[np.int64],
        n_frames: int,
        t_r: float,
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """`voxels` (n,): positions in the raveled (Fortran order) grid of the masks, ascending; t_r in s.

        Raises ValueError where a voxel of a mask is not among them.
        """
        self.t_r, self.n_frames = t_r, n_frames
        self._given = {  # positions in `voxels`
            "brain": _places(masks.brain, voxels),
            "csf": _places(masks.csf, voxels),
            "wm": _places(masks.wm, voxels),
        }
        self._every = {n: 1 + 4 * n_frames * len(at) // max_bytes for n, at in self._given.items()}
        self._at = {name: at[:: self._every[name]] for name, at in self._given.items()}
        self._series = {n: np.zeros((n_frames, len(at)), np.float32) for n, at in self._at.items()}
        self._outside = np.zeros(len(voxels), dtype=bool)
        self._seen = np.zeros(n_frames, dtype=bool)

    def add(self, frame: int, values: F) -> None:
        """`values` (n,) of all voxels in frame number `frame`, in the scan's units."""
        bad = ~np.isfinite(values) | (values == 0)
        if not bad.all():  # an empty frame says nothing of where the head was
            self._outside |= bad
        for name, at in self._at.items():
            self._series[name][frame] = values[at]
        self._seen[frame] = True

    def table(self, motion: "Motion", n_non_steady: int) -> tuple["pd.DataFrame", dict[str, Any]]:
        """The table (n_frames rows) and its JSON; NaN where there is no value.

        Raises InputError where no voxel of a mask stays inside the image, or the brain's values are not those
        of raw BOLD; ValueError where frames are lacking.
        """
        import pandas as pd

        if not self._seen.all():
            raise ValueError(f"{int((~self._seen).sum())} of {self.n_frames} frames were not added.")
        series = {name: self._always_inside(name) for name in self._at}
        columns = self._mean_signals(series)
        columns["std_dvars"], columns["dvars"] = dvars(series["brain"])
        columns["framewise_displacement"] = _framewise_displacement(motion)
        described = {name: {"Method": "Mean"} | self._sampling(name) for name in _MEANS}
        columns |= self._drifts_and_components(series, n_non_steady, described)
        columns |= _one_hot("non_steady_state_outlier", np.arange(n_non_steady), self.n_frames)
        for name, values in zip(MOTION, motion.params.T, strict=True):
            columns |= _expanded(name, values)
        with np.errstate(invalid="ignore"):
            jumped = (columns["framewise_displacement"] > FD_LIMIT) | (columns["std_dvars"] > STD_DVARS_LIMIT)
        columns |= _one_hot("motion_outlier", np.flatnonzero(jumped), self.n_frames)
        return pd.DataFrame(columns), described

    def _always_inside(self, name: str) -> NDArray[np.float32]:
        inside = ~self._outside[self._at[name]]
        if not inside.any():
            raise InputError(
                f"No voxel of the run's {_TITLES[name]} stays inside the image in all {self.n_frames} "
                "volumes: the head moved out of it, or volumes are damaged.",
                hint="Look at the run; leave it out.",
            )
        return self._series[name] if inside.all() else self._series[name][:, inside]

    def _mean_signals(self, series: dict[str, NDArray[np.float32]]) -> dict[str, F]:
        mean = {name: of.mean(axis=1, dtype=np.float64) for name, of in series.items()}
        columns: dict[str, F] = {}
        for name, mask in (("global_signal", "brain"), ("csf", "csf"), ("white_matter", "wm")):
            columns |= _expanded(name, mean[mask])
        n_csf, n_wm = (series[mask].shape[1] * self._every[mask] for mask in ("csf", "wm"))
        columns["csf_wm"] = (n_csf * mean["csf"] + n_wm * mean["wm"]) / (n_csf + n_wm)
        return columns

    def _sampling(self, name: str) -> dict[str, Any]:
        """What the JSON says of a mean signal besides its method."""
        masks = _MEANS[name]
        told: dict[str, Any] = {"Voxels": sum(len(self._given[mask]) for mask in masks)}
        if (every := max(self._every[mask] for mask in masks)) > 1:
            told["Description"] = f"Computed from one voxel in {every}: all would not fit in memory."
        return told

    def _drifts_and_components(
        self, series: dict[str, NDArray[np.float32]], n_non_steady: int, described: dict[str, Any]
    ) -> dict[str, F]:
        """Columns of CompCor and of the cosines; what is to be said of them is added to `described`."""
        n_steady = self.n_frames - n_non_steady
        drifts = cosine_drifts(n_steady, self.t_r)
        of = {name: covariance_over_time(series[name][n_non_steady:], drifts) for name in ("csf", "wm")}
        of = {name: self._every[name] * covariance for name, covariance in of.items()}
        of["combined"] = of["csf"] + of["wm"]  # the masks have no voxel in common
        columns: dict[str, F] = {}
        for prefix, mask, title in (("c", "csf", "CSF"), ("w", "wm", "WM"), ("a", "combined", "combined")):
            found = components(of[mask])
            names = [f"{prefix}_comp_cor_{i:02d}" for i in range(found.values.shape[1])]
            columns |= dict(zip(names, _padded(found.values, n_non_steady).T, strict=True))
            described |= {name: _of_component(found, i, title) for i, name in enumerate(names)}
        for i, drift in enumerate(_padded(drifts, n_non_steady).T):
            columns[f"cosine{i:02d}"] = drift
            described[f"cosine{i:02d}"] = {"Method": "Cosine", "CutoffPeriod": PERIOD, "Units": "s"}
        return columns


_TITLES = {"brain": "brain", "csf": "ventricles", "wm": "white matter"}
_MEANS = {"global_signal": ("brain",), "csf": ("csf",), "white_matter": ("wm",), "csf_wm": ("csf", "wm")}


def dvars(series: NDArray[np.float32]) -> tuple[F, F]:
    """Standardised and plain DVARS (n_frames,) of a brain's series (n_frames, n_voxels); NaN first.

    Raises InputError where the median is not above 0: not the values of raw BOLD.
    """
    n_frames, n_voxels = series.shape
    median = float(np.median(series))
    if not median > 0:
        raise InputError(
            f"The median of the brain's values is {median:g}: raw BOLD is positive.",
            hint="Give the run as the scanner wrote it, not demeaned or filtered.",
        )
    squares, expected, n_used = np.zeros(n_frames - 1), 0.0, 0
    for first in range(0, n_voxels, _CHUNK):
        part = series[:, first : first + _CHUNK] * np.float32(_MEDIAN / median)
        low, high = np.percentile(part, [25, 75], axis=0, method="lower")
        deviation = (high - low) / 1.349
        part, deviation = part[:, deviation > 0].astype(np.float64), deviation[deviation > 0]
        squares += np.square(np.diff(part, axis=0)).sum(axis=1)
        part -= part.mean(axis=0)
        r = (part[1:] * part[:-1]).sum(axis=0) / np.square(part).sum(axis=0)
        expected += float((deviation * np.sqrt(2 * (1 - r))).sum())
        n_used += len(deviation)
    plain = np.full(n_frames, np.nan)
    if n_used == 0:
        return plain, plain.copy()
    plain[1:] = np.sqrt(squares / n_used)
    return plain / (expected / n_used), plain


def _framewise_displacement(motion: "Motion") -> F:
    from bjepa.preproc.raw.motion import framewise_displacement

    return framewise_displacement(motion.params)


def _expanded(name: str, values: F) -> dict[str, F]:
    """A signal, its difference to the frame before, and the squares of both."""
    difference = np.r_[np.nan, np.diff(values)]
    return {
        name: values,
        f"{name}_derivative1": difference,
        f"{name}_power2": values**2,
        f"{name}_derivative1_power2": difference**2,
    }


def _one_hot(prefix: str, frames: NDArray[np.int64], n_frames: int) -> dict[str, F]:
    return {f"{prefix}{i:02d}": np.eye(1, n_frames, frame)[0] for i, frame in enumerate(frames)}


def _padded(columns: F, n_before: int) -> F:
    """With `n_before` rows of zeros on top."""
    return np.vstack([np.zeros((n_before, columns.shape[1])), columns])


def _of_component(found: Components, number: int, mask: str) -> dict[str, Any]:
    return {
        "CumulativeVarianceExplained": float(found.cumulated[number]),
        "Mask": mask,
        "Method": "aCompCor",
        "Retained": True,
        "SingularValue": float(found.singular_values[number]),
        "VarianceExplained": float(found.explained[number]),
    }


def _places(mask: NDArray[np.bool_], voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the voxels of a mask stand in `voxels`."""
    wanted = np.flatnonzero(mask.ravel(order="F"))
    places = np.searchsorted(voxels, wanted)
    if len(voxels) == 0 or not np.array_equal(voxels[np.minimum(places, len(voxels) - 1)], wanted):
        raise ValueError("every voxel of the masks must be among `voxels`, in ascending order.")
    return places
