"""The registration library, antspyx: threads, seed, images in and out, transforms in our coordinates.

ITK reads `ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS` once in the life of a process, when the first filter runs,
and offers no way to change it later; ANTs reads `ANTS_RANDOM_SEED` at each registration, where 0 stands for
the time of day. With one thread and the same seed results are the same to the last bit; with more threads
sums differ in their last bits.
Everything here takes and gives RAS millimetres; ITK's LPS does not leave this file.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_text
from bjepa.preproc.raw.displacement import Displacement, load_displacement
from bjepa.preproc.raw.work_grid import Grid

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_THREADS = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
_SEED = "ANTS_RANDOM_SEED"
_threads_of_process: int | None = None  # what ITK was started with; it cannot change

Linear = Literal["Rigid", "Similarity", "Affine"]


class RegistrationError(RuntimeError):
    """ANTs has given up; the message is its own. Callers turn it into an InputError that names the file."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Coarse to fine: each level's iterations, factor to shrink by, sigma (voxels) to smooth with."""

    iterations: tuple[int, ...]
    shrink: tuple[int, ...]
    sigmas: tuple[int, ...]
    sampling: float = 0.2  # share of the voxels that the metric looks at


@dataclass(frozen=True, eq=False)
class Warp:
    """A deformation p' = matrix @ (p + warp(p)) of fixed to moving points, and the way back."""

    matrix: NDArray[np.float64]
    warp: Displacement
    inverse_warp: Displacement

    def forward(self, grid: Grid) -> Displacement:
        """Fixed point -> moving point, sampled at the voxels of `grid`."""
        points = grid.points()
        return _sampled(grid, points, apply_affine(self.matrix, self.warp(points)))

    def backward(self, grid: Grid) -> Displacement:
        """Moving point -> fixed point, sampled at the voxels of `grid`."""
        points = grid.points()
        return _sampled(grid, points, self.inverse_warp(apply_affine(np.linalg.inv(self.matrix), points)))


def linear_displacement(matrix: NDArray[np.float64], grid: Grid) -> Displacement:
    """The affine map `matrix` as a field of displacements on `grid`."""
    points = grid.points()
    return _sampled(grid, points, apply_affine(matrix, points))


def _sampled(grid: Grid, points: NDArray[np.float64], moved: NDArray[np.float64]) -> Displacement:
    field = (moved - points).astype(np.float32).reshape(*grid.shape, 3)
    return Displacement(field, grid.affine)


class Ants:
    """antspyx, started with a number of threads and a seed, and a folder for what it writes."""

    def __init__(self, module: Any, folder: Path) -> None:
        self._ants, self._folder, self._n = module, folder, 0

    def image(self, image: nib.Nifti1Image) -> Any:
        """nibabel -> ANTs, float32; any orientation."""
        affine = _LPS @ np.asarray(image.affine, dtype=np.float64)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        return self._ants.from_numpy(
            np.asarray(image.dataobj, dtype=np.float32),
            origin=affine[:3, 3].tolist(),
            spacing=spacing.tolist(),
            direction=affine[:3, :3] / spacing,
        )

    def nifti(self, image: Any) -> nib.Nifti1Image:
        """ANTs -> nibabel, float32."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(image.direction) * np.asarray(image.spacing)
        affine[:3, 3] = image.origin
        return nib.Nifti1Image(np.asarray(image.numpy(), dtype=np.float32), _LPS @ affine)

    def align(
        self,
        fixed: nib.Nifti1Image,
        moving: nib.Nifti1Image,
        kind: Linear,
        schedule: Schedule,
        *,
        start: NDArray[np.float64],
        mask: nib.Nifti1Image | None = None,
    ) -> NDArray[np.float64]:
        """(4, 4) map of fixed to moving points, RAS mm, of the largest mutual information near `start`."""
        found = self._register(
            fixed,
            moving,
            start,
            mask,
            type_of_transform=kind,
            aff_iterations=schedule.iterations,
            aff_shrink_factors=schedule.shrink,
            aff_smoothing_sigmas=schedule.sigmas,
            aff_random_sampling_rate=schedule.sampling,
        )
        return self._matrix(found["fwdtransforms"][-1])

    def warp(
        self,
        fixed: nib.Nifti1Image,
        moving: nib.Nifti1Image,
        iterations: tuple[int, ...],
        *,
        start: NDArray[np.float64],
        mask: nib.Nifti1Image | None = None,
        metric: Literal["CC", "mattes"] = "CC",
    ) -> Warp:
        """SyN from the affine `start`: cross-correlation within 2 voxels, or mutual information of 32 bins.

        Shrunk by 2 ** (levels - 1) down to 1, at the resolution of `fixed`.
        Source: Avants et al. 2008, Med Image Anal 12:26, doi:10.1016/j.media.2007.06.004.
        """
        found = self._register(
            fixed,
            moving,
            start,
            mask,
            type_of_transform="SyNOnly",
            syn_metric=metric,
            syn_sampling=2 if metric == "CC" else 32,
            reg_iterations=iterations,
        )
        forward = [path for path in found["fwdtransforms"] if path.endswith("1Warp.nii.gz")]
        inverse = [path for path in found["invtransforms"] if path.endswith("1InverseWarp.nii.gz")]
        return Warp(start, load_displacement(Path(forward[0])), load_displacement(Path(inverse[0])))

    def bias_field(
        self, image: nib.Nifti1Image, mask: nib.Nifti1Image, *, shrink: int, iterations: tuple[int, ...]
    ) -> nib.Nifti1Image:
        """Smooth gain of the receiver coil, by N4: divide the image by it. Positive, about 1 within `mask`.

        Source: Tustison et al. 2010, IEEE TMI 29:1310, doi:10.1109/TMI.2010.2046908.
        """
        with _quiet(self._folder / "n4-log.txt"):
            field = self._ants.n4_bias_field_correction(
                self.image(image),
                mask=self.image(mask),
                shrink_factor=shrink,
                convergence={"iters": list(iterations), "tol": 1e-6},
                spline_param=200,
                return_bias_field=True,
            )
        return self.nifti(field)

    def _register(
        self,
        fixed: nib.Nifti1Image,
        moving: nib.Nifti1Image,
        start: NDArray[np.float64],
        mask: nib.Nifti1Image | None,
        **options: Any,
    ) -> dict[str, Any]:
        self._n += 1
        initial = self._folder / f"{self._n}-start.txt"
        write_matrix(initial, start)
        log = self._folder / f"{self._n}-log.txt"
        try:
            with _quiet(log):
                found: dict[str, Any] = self._ants.registration(
                    self.image(fixed),
                    self.image(moving),
                    initial_transform=[str(initial)],
                    mask=None if mask is None else self.image(mask),
                    mask_all_stages=mask is not None,
                    outprefix=str(self._folder / f"{self._n}-"),
                    **options,
                )
        except (RuntimeError, ValueError) as error:
            raise RegistrationError(f"{error} {_last_words(log)}".strip()) from error
        if "No valid points" in (said := _last_words(log)):  # ANTs goes on, and gives back what it began with
            raise RegistrationError(said)
        return found

    def _matrix(self, path: str) -> NDArray[np.float64]:
        transform = self._ants.read_transform(path)
        return _matrix_of(np.asarray(transform.parameters), np.asarray(transform.fixed_parameters))


@contextmanager
def ants_session(threads: int, seed: int) -> Iterator[Ants]:
    """Start antspyx with `threads` and `seed` (0 or more); what it writes is gone at the end, come what may.

    Raises InputError without antspyx, or where this process has registered with another number of threads.
    """
    global _threads_of_process
    if _threads_of_process not in (None, threads):
        raise InputError(
            f"registration runs with {_threads_of_process} threads in this process, now {threads} are asked "
            "for; the library cannot change them.",
            hint="Start a new Python process, or keep omp_threads.",
        )
    before = {name: os.environ.get(name) for name in (_THREADS, _SEED)}
    os.environ[_THREADS], os.environ[_SEED] = str(threads), str(seed + 1)  # 0 would be the time of day
    try:
        try:
            import ants
        except ImportError as error:
            raise InputError(
                f"registration of raw scans needs antspyx ({error}).", hint="pip install 'bjepa[raw]'"
            ) from error
        _threads_of_process = threads
        with tempfile.TemporaryDirectory(prefix="bjepa-ants-") as folder:
            yield Ants(ants, Path(folder))
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _last_words(log: Path) -> str:
    """The end of what ANTs printed, on one line."""
    return " ".join(log.read_text(errors="replace").split())[-400:]


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """What C++ prints goes to the file `log` instead of the terminal."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with open(log, "ab") as stream:
        try:
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
            yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)


def write_matrix(path: Path, matrices: NDArray[np.float64]) -> None:
    """Write one (4, 4) or several (n, 4, 4) maps of points, RAS mm, as ITK's text transform (LPS)."""
    lines = ["#Insight Transform File V1.0\n"]
    for number, matrix in enumerate(matrices.reshape(-1, 4, 4)):
        lps = _LPS @ matrix @ _LPS
        numbers = " ".join(repr(float(value)) for value in [*lps[:3, :3].ravel(), *lps[:3, 3]])
        lines += [f"#Transform {number}\n", "Transform: AffineTransform_double_3_3\n"]
        lines += [f"Parameters: {numbers}\n", "FixedParameters: 0 0 0\n"]
    write_text(path, "".join(lines))


def read_matrix(path: Path) -> NDArray[np.float64]:
    """Read one affine transform that `write_matrix` or ITK wrote as text: (4, 4), RAS mm."""
    parameters: list[NDArray[np.float64]] = []
    centres: list[NDArray[np.float64]] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, values = line.partition(":")
            if name in ("Parameters", "FixedParameters"):
                numbers = np.array([float(value) for value in values.split()])
                (parameters if name == "Parameters" else centres).append(numbers)
    except (ValueError, UnicodeDecodeError):
        parameters = []
    if [len(numbers) for numbers in parameters + centres] != [12, 3]:
        raise InputError(
            f"{path} is not one affine transform as ITK's text (12 parameters and a centre).",
            hint="A chain of transforms, a displacement field or a binary .mat cannot be read here.",
        )
    return _matrix_of(parameters[0], centres[0])


def _matrix_of(parameters: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """ITK's y = M (x - c) + c + t, LPS, as a (4, 4) matrix, RAS."""
    lps = np.eye(4)
    lps[:3, :3] = parameters[:9].reshape(3, 3)
    lps[:3, 3] = parameters[9:12] + centre - lps[:3, :3] @ centre
    return np.asarray(_LPS @ lps @ _LPS, dtype=np.float64)
