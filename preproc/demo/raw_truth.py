"""What the simulator of raw scans knows of a participant and of each run."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.demo.raw_head import grid_points
from bjepa.preproc.demo.raw_scan import nearest_labels, template_points
from bjepa.preproc.raw.displacement import Displacement

F64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class RunTruth:
    """What the generator knows of one run. Points and matrices in mm, RAS.

    The reference is where the head would be without motion; an analysis may choose another, G away from it:
    its own matrices are matrices[t] @ G, its own place in the T1w image is to_t1w @ G.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: F64
    t_r: float
    matrices: F64  # (T, 4, 4), a point of the reference to the same point of the head in frame t
    to_t1w: F64  # (4, 4), a point of the reference to the same point of the T1w image
    series: F64  # (T, 450), the regions' signals at the middle of each volume's acquisition, variance 1
    n_non_steady: int
    slice_times: tuple[float, ...] | None  # s
    distortion_mm: float

    @property
    def fc(self) -> F64:
        """Correlation of the planted signals of the steady frames, (450, 450)."""
        return np.asarray(np.corrcoef(self.series[self.n_non_steady :].T))


@dataclass(frozen=True, kw_only=True, eq=False)
class RawTruth:
    """What the generator knows of one participant.

    to_template : T1w mm to template mm (n, 3); fc : (450, 450), what the signals' correlation tends to
    """

    participant_id: str
    age: float
    sex: str
    t1w: Path
    to_template: Displacement
    labels_img: nib.Nifti1Image  # the atlas, in the template's space
    runs: tuple[RunTruth, ...]
    fc: F64

    def template_points(self, run: RunTruth, points: F64) -> F64:
        """Template mm of what the run shows at `points` (n, 3) mm of its reference, distortion included."""
        return template_points(points, self.to_template, run.to_t1w, run.affine, run.distortion_mm)

    def labels(self, run: RunTruth, reference: F64 | None = None) -> NDArray[np.int16]:
        """The atlas on the run's grid, (x, y, z). `reference` (4, 4) is G, None = the truth's own."""
        points = grid_points(run.shape, run.affine)
        points = points if reference is None else apply_affine(reference, points)
        return nearest_labels(self.labels_img, self.template_points(run, points)).reshape(run.shape)
