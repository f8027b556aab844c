"""A T1w image brought to the template: bias corrected, its brain found, warped. Once a participant.

Order of operations (all on a grid of 2 mm along the world's axes; results hold for the image as it was):
  1. region    `t1_mask`, or what is above the background if the skull is stripped; else the run's brain mask,
               laid onto the head (rigid, mutual information) and widened: that strips most of the scalp,
               which registration to a stripped template takes for brain
  2. N4        within the region
  3. brain     of a whole head: what hangs together in the region (brain_mask.py)
  4. affine    template -> T1w, mutual information, from three starts
     of a whole head then a quick warp, the template's brain mask laid back and widened as the new region
     (the run may not have reached the cerebellum), and 3 and 4 again
  5. SyN       fixed T1w, moving template, cross-correlation within 2 voxels; no transform is inverted
               on the way from BOLD to atlas
"""

import logging
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.ants import (
    Ants,
    Linear,
    RegistrationError,
    Schedule,
    Warp,
    ants_session,
    linear_displacement,
)
from bjepa.preproc.raw.brain_mask import brain_within
from bjepa.preproc.raw.coregister import (
    coregister_with,
    masked,
    mi_ratio,
    mutual_information,
    pitched,
    shifted,
)
from bjepa.preproc.raw.displacement import Displacement
from bjepa.preproc.raw.options import SEED, RawOptions
from bjepa.preproc.raw.t1w import read_t1_mask, read_t1w, stripped_brain
from bjepa.preproc.raw.template import Template
from bjepa.preproc.raw.work_grid import (
    corners,
    grid_around,
    points_in_mask,
    resample,
    resample_mask,
    sample,
    widened,
)

log = logging.getLogger(__name__)

_WORK_MM = 2.0
_SLOPPY_MM = 4.0
_DOMAIN_MARGIN = 10.0  # mm around the brain, where SyN works
_FIELD_MARGIN = 24.0  # mm around the brain, that the fields cover
_SCALP_MM = 6.0  # by how much the brain mask of the run is widened
_REGION_MM = 4.0  # and that of the template, laid back
_BACKGROUND = 0.02  # of the 99th percentile: what resampling leaves around a stripped template lies below
_AFFINE = Schedule(iterations=(500, 250, 100), shrink=(4, 3, 2), sigmas=(2, 1, 1))
_SEARCH = Schedule(iterations=(100,), shrink=(4,), sigmas=(2,))
_SLOPPY_AFFINE = Schedule(iterations=(100, 50), shrink=(2, 1), sigmas=(1, 0))
_TURNED = Schedule(iterations=(40,), shrink=(2,), sigmas=(1,), sampling=0.5)
_WARP = (40, 20, 8)  # iterations at 8, 4 and 2 mm
_SLOPPY_WARP = (20, 5)  # at 8 and 4 mm
_QUICK_WARP = (20, 10)  # at 8 and 4 mm, mutual information: to find the brain


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What is known of a participant's head.

    t1w : bias corrected, float32, the whole head, on its own grid; brain_mask : uint8, same grid
    to_template : T1w point -> template point (pulls atlas and tissue maps onto T1w and BOLD)
    from_template : template point -> T1w point (pulls the T1w onto the template)
    on_template : the T1w's brain on the template's grid at 2 mm, float32
    metrics : for `judge_anatomy`, and to look at
        template_ncc         correlation of T1w and template within the brain, at 4 mm, after a stiff warp
                             (mutual information): the final one makes even a head turned round look right
        template_ncc_affine, template_ncc_warped   the same before any warp, and after the final one
        orientation_ratio    mutual information with the template as the header has the axes, over the best
                             of the 23 other right-angled ways: below 1, axes are exchanged or flipped
        affine_scale_ratio   largest over smallest stretch of the affine part
        brain_volume_l       litres of `brain_mask`
        template_coverage    share of the template's brain that the T1w (stripped: its brain) has
        jacobian_min, jacobian_max   1st and 99th percentile of the volume change, T1w -> template
    """

    t1w: nib.Nifti1Image
    brain_mask: nib.Nifti1Image
    to_template: Displacement
    from_template: Displacement
    on_template: nib.Nifti1Image
    metrics: dict[str, float]


def prepare_anatomy(
    t1w: Path,
    template: Template,
    *,
    boldref: nib.Nifti1Image,
    bold_mask: nib.Nifti1Image,
    t1_mask: Path | None,
    options: RawOptions,
) -> Anatomy:
    """Register a T1w image to the template.

    Parameters
    ----------
    t1w : 3D NIfTI, whole head or skull-stripped, any orientation
    boldref, bold_mask : of one of the participant's runs, same grid: helps to find the brain of a whole head
    t1_mask : brain mask on the grid of the T1w, where there is one

    Raises
    ------
    InputError
        A T1w or mask that cannot be used, or a registration that failed.
    """
    image = read_t1w(t1w)
    known = read_t1_mask(t1_mask, image, t1w) if t1_mask is not None else stripped_brain(image)
    try:
        with ants_session(options.omp_threads, SEED) as ants:
            return _Registration(ants, template.brain(), options.sloppy).run(image, known, boldref, bold_mask)
    except RegistrationError as error:
        raise InputError(
            f"{t1w} could not be registered to {template.name} ({error}).",
            hint="Check that it shows a head, oriented rightly and T1-weighted; a brain mask (--t1-mask) "
            "helps.",
        ) from error


def prepare_without_t1w(
    boldref: nib.Nifti1Image,
    bold_mask: nib.Nifti1Image,
    template: Template,
    *,
    options: RawOptions,
) -> Anatomy:
    """Register a run's reference image to the template itself: a similarity map (rigid and one scale).

    The boldref stands for the T1w in what is returned. Low quality: 4 to 5 mm off on a real pair, for
    the echo-planar image is distorted and its contrast another.
    Raises InputError for an empty mask or a registration that failed.
    """
    brain = template.brain()
    try:
        with ants_session(options.omp_threads, SEED) as ants:
            registration = _Registration(ants, brain, options.sloppy)
            return registration.run_linear(boldref, bold_mask)
    except RegistrationError as error:
        raise InputError(
            f"the BOLD run could not be registered to {template.name} ({error}).",
            hint="Look at its mean image; give the participant's T1w image.",
        ) from error


class _Registration:
    """The steps of one registration, which share the template on a grid of its own."""

    def __init__(self, ants: Ants, brain: nib.Nifti1Image, sloppy: bool) -> None:
        self.ants, self.brain, self.sloppy = ants, brain, sloppy
        self.mm = _SLOPPY_MM if sloppy else _WORK_MM
        self.brain_mask = above(brain, _BACKGROUND)
        self.brain_points = points_in_mask(
            resample_mask(self.brain_mask, grid_around(corners(brain), 4.0, 0.0))
        )
        self.moving = resample(brain, grid_around(self.brain_points, self.mm, _DOMAIN_MARGIN))
        self.coarse = resample(brain, grid_around(self.brain_points, _SLOPPY_MM, _DOMAIN_MARGIN))

    def run(
        self,
        t1w: nib.Nifti1Image,
        known: nib.Nifti1Image | None,
        boldref: nib.Nifti1Image,
        bold_mask: nib.Nifti1Image,
    ) -> Anatomy:
        rough = known if known is not None else self._from_bold(t1w, boldref, bold_mask)
        t1w = self._bias_corrected(t1w, rough)
        mask = rough if known is not None else self._brain(t1w, rough)
        matrix = self._affine(t1w, mask)
        if known is None:
            mask = self._brain(t1w, self._from_template(t1w, mask, matrix))
            matrix = self._affine(t1w, mask, matrix)
        fixed = self._fixed(t1w, mask, matrix)
        warp = self.ants.warp(fixed, self.moving, _SLOPPY_WARP if self.sloppy else _WARP, start=matrix)
        to_template, from_template = self._fields(warp, mask)
        return Anatomy(
            t1w=t1w,
            brain_mask=mask,
            to_template=to_template,
            from_template=from_template,
            on_template=self._on_template(masked(t1w, mask), from_template),
            metrics=self._likeness(t1w, mask, matrix, to_template)
            | self._metrics(t1w, mask, known is not None, matrix, to_template, from_template),
        )

    def run_linear(self, boldref: nib.Nifti1Image, bold_mask: nib.Nifti1Image) -> Anatomy:
        if not (np.asarray(bold_mask.dataobj) > 0).any():
            raise InputError("the brain mask of the BOLD run is empty.", hint="Look at its mean image.")
        matrix = self._affine(boldref, bold_mask, kind="Similarity")
        whole = grid_around(self._both(bold_mask, matrix), self.mm, _FIELD_MARGIN)
        on_template = grid_around(self.brain_points, self.mm, _FIELD_MARGIN)
        to_template = linear_displacement(matrix, whole)
        from_template = linear_displacement(np.asarray(np.linalg.inv(matrix), dtype=np.float64), on_template)
        image = masked(boldref, None)
        metrics = self._metrics(image, bold_mask, True, matrix, to_template, from_template)
        # the contrast of an echo-planar image is another: information is common to both, brightness is not
        metrics["orientation_ratio"] = self._orientation_ratio(masked(image, bold_mask), bold_mask)
        wide = widened(bold_mask, 2 * _DOMAIN_MARGIN / 3)
        values = np.asarray(boldref.dataobj, dtype=np.float64)[np.asarray(wide.dataobj) > 0]
        metrics["mi_ratio"] = mi_ratio(values, points_in_mask(wide), self.moving, matrix)
        return Anatomy(
            t1w=image,
            brain_mask=nib.Nifti1Image(
                (np.asarray(bold_mask.dataobj) > 0).astype(np.uint8), bold_mask.affine
            ),
            to_template=to_template,
            from_template=from_template,
            on_template=self._on_template(masked(image, bold_mask), from_template),
            metrics=metrics,
        )

    # --- the brain ------------------------------------------------------------------------------------------

    def _from_bold(
        self, t1w: nib.Nifti1Image, boldref: nib.Nifti1Image, bold_mask: nib.Nifti1Image
    ) -> nib.Nifti1Image:
        """The run's brain mask laid onto the head and widened."""
        rigid = coregister_with(self.ants, boldref, bold_mask, t1w, None, sloppy=self.sloppy).matrix
        placed = nib.Nifti1Image(np.asarray(bold_mask.dataobj, dtype=np.float32), rigid @ bold_mask.affine)
        grid = grid_around(points_in_mask(placed), 2.0, 2 * _SCALP_MM)
        return widened(resample_mask(placed, grid), _SCALP_MM)

    def _from_template(
        self, t1w: nib.Nifti1Image, rough: nib.Nifti1Image, matrix: NDArray[np.float64]
    ) -> nib.Nifti1Image:
        """The template's brain mask laid back by a quick warp, and widened."""
        to_template = self._quick_warp(t1w, rough, matrix)
        grid = grid_around(self._both(rough, matrix), _WORK_MM, 2 * _SCALP_MM)
        inside = sample(self.brain_mask, to_template(grid.points())) > 0.5
        return widened(grid.image(inside.astype(np.uint8)), _REGION_MM)

    def _brain(self, t1w: nib.Nifti1Image, region: nib.Nifti1Image) -> nib.Nifti1Image:
        brain = brain_within(t1w, region)
        if not np.asarray(brain.dataobj).any():
            raise RegistrationError("no brain was found in it where the BOLD run's lies")
        return brain

    def _bias_corrected(self, t1w: nib.Nifti1Image, mask: nib.Nifti1Image) -> nib.Nifti1Image:
        """The whole image divided by the smooth gain that N4 finds within the brain (mean 1 there)."""
        grid = grid_around(points_in_mask(mask), self.mm, 4.0)
        inside = resample_mask(mask, grid)
        iterations = (20, 20) if self.sloppy else (50, 50, 30)
        gain = self.ants.bias_field(resample(t1w, grid), inside, shrink=3, iterations=iterations)
        logarithm = np.log(np.clip(np.asarray(gain.dataobj, dtype=np.float64), 1e-3, None))
        logarithm -= logarithm[np.asarray(inside.dataobj) > 0].mean()
        return divided(t1w, nib.Nifti1Image(logarithm.astype(np.float32), grid.affine))

    # --- onto the template ----------------------------------------------------------------------------------

    def _affine(
        self,
        t1w: nib.Nifti1Image,
        mask: nib.Nifti1Image,
        start: NDArray[np.float64] | None = None,
        kind: Linear = "Affine",
    ) -> NDArray[np.float64]:
        """(4, 4) T1w point -> template point."""
        brain = points_in_mask(mask)
        grid = grid_around(brain, self.mm, _DOMAIN_MARGIN)
        fixed, fixed_mask = resample(masked(t1w, mask), grid), widened(resample_mask(mask, grid), 6.0)
        if start is None:
            goal = self.brain_points.mean(axis=0)
            together = shifted(goal - brain.mean(axis=0))
            starts = [pitched(np.deg2rad(angle), goal) @ together for angle in (0.0, 15.0, -15.0)]
            found = [
                self.ants.align(fixed, self.moving, "Similarity", _SEARCH, start=s, mask=fixed_mask)
                for s in starts
            ]
            start = max(found, key=lambda matrix: self._mi(fixed, fixed_mask, matrix))
        return self.ants.align(
            fixed,
            self.moving,
            kind,
            _SLOPPY_AFFINE if self.sloppy else _AFFINE,
            start=start,
            mask=fixed_mask,
        )

    def _orientation_ratio(self, brain: nib.Nifti1Image, mask: nib.Nifti1Image) -> float:
        """Mutual information of the brains as the header has them, over the best of 23 other orientations.

        Each is tried with centres of mass together and a short search. A mirrored brain looks like one that
        is not, so a left-right flip is not seen; every other exchange or flip of axes is.
        """
        grid = grid_around(points_in_mask(mask), _SLOPPY_MM, _DOMAIN_MARGIN)
        fixed, near = resample(brain, grid), widened(resample_mask(mask, grid), 6.0)
        goal = self.brain_points.mean(axis=0)
        together = shifted(goal - points_in_mask(mask).mean(axis=0))
        found = []
        for turn in _right_angled():
            start = shifted(goal) @ nib.affines.from_matvec(turn) @ shifted(-goal) @ together
            matrix = self.ants.align(fixed, self.coarse, "Similarity", _TURNED, start=start, mask=near)
            found.append(self._mi(fixed, near, matrix))
        return float(found[0] / max(found[1:]))

    def _likeness(
        self,
        t1w: nib.Nifti1Image,
        mask: nib.Nifti1Image,
        matrix: NDArray[np.float64],
        to_template: Displacement,
    ) -> dict[str, float]:
        grid = grid_around(points_in_mask(mask), _SLOPPY_MM, 4.0)
        inside = resample_mask(mask, grid)
        points = points_in_mask(inside)
        values = np.asarray(resample(t1w, grid).dataobj, dtype=np.float64)[np.asarray(inside.dataobj) > 0]
        stiff = self._quick_warp(t1w, mask, matrix)
        return {
            "template_ncc": _correlation(values, sample(self.coarse, stiff(points))),
            "template_ncc_affine": _correlation(values, sample(self.coarse, apply_affine(matrix, points))),
            "template_ncc_warped": _correlation(values, sample(self.coarse, to_template(points))),
            "orientation_ratio": self._orientation_ratio(masked(t1w, mask), mask),
        }

    def _mi(self, fixed: nib.Nifti1Image, mask: nib.Nifti1Image, matrix: NDArray[np.float64]) -> float:
        inside = np.asarray(mask.dataobj) > 0
        values = np.asarray(fixed.dataobj, dtype=np.float64)[inside]
        return mutual_information(values, sample(self.moving, apply_affine(matrix, points_in_mask(mask))))

    def _both(self, mask: nib.Nifti1Image, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of the T1w's brain and of the template's, where the affine map puts it."""
        return np.vstack([points_in_mask(mask), apply_affine(np.linalg.inv(matrix), self.brain_points)])

    def _fixed(
        self,
        t1w: nib.Nifti1Image,
        mask: nib.Nifti1Image,
        matrix: NDArray[np.float64],
        mm: float | None = None,
    ) -> nib.Nifti1Image:
        grid = grid_around(self._both(mask, matrix), mm or self.mm, _DOMAIN_MARGIN)
        return resample(masked(t1w, mask), grid)

    def _quick_warp(
        self, t1w: nib.Nifti1Image, mask: nib.Nifti1Image, matrix: NDArray[np.float64]
    ) -> Displacement:
        fixed = self._fixed(t1w, mask, matrix, mm=_SLOPPY_MM)
        warp = self.ants.warp(fixed, self.moving, _QUICK_WARP, start=matrix, metric="mattes")
        return self._fields(warp, mask)[0]

    def _fields(self, warp: Warp, mask: nib.Nifti1Image) -> tuple[Displacement, Displacement]:
        there = grid_around(self._both(mask, warp.matrix), self.mm, _FIELD_MARGIN)
        back = grid_around(self.brain_points, self.mm, _FIELD_MARGIN)
        return warp.forward(there), warp.backward(back)

    def _on_template(self, brain: nib.Nifti1Image, from_template: Displacement) -> nib.Nifti1Image:
        grid = grid_around(corners(self.brain), _WORK_MM, 0.0)
        return grid.image(sample(brain, from_template(grid.points())).astype(np.float32))

    # --- is it right ----------------------------------------------------------------------------------------

    def _metrics(
        self,
        t1w: nib.Nifti1Image,
        mask: nib.Nifti1Image,
        stripped: bool,
        matrix: NDArray[np.float64],
        to_template: Displacement,
        from_template: Displacement,
    ) -> dict[str, float]:
        points = points_in_mask(resample_mask(mask, grid_around(points_in_mask(mask), _SLOPPY_MM, 4.0)))
        stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
        seen = mask if stripped else above(t1w, _BACKGROUND)
        seen = widened(resample_mask(seen, grid_around(points_in_mask(mask), 4.0, 24.0)), 4.0)
        change = jacobian(to_template)
        found = nib.Nifti1Image(change, to_template.affine)
        low, high = np.percentile(sample(found, points), [1, 99])
        return {
            "affine_scale_ratio": float(stretch[0] / stretch[-1]),
            "brain_volume_l": litres(mask),
            "template_coverage": float((sample(seen, from_template(self.brain_points), order=0) > 0).mean()),
            "jacobian_min": float(low),
            "jacobian_max": float(high),
        }


def _right_angled() -> list[NDArray[np.float64]]:
    """The 24 turns that take axes to axes, the one by nothing first."""
    turns = []
    for axes in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), axes] = signs
            if np.linalg.det(turn) > 0:
                turns.append(turn)
    return turns


def divided(t1w: nib.Nifti1Image, log_gain: nib.Nifti1Image) -> nib.Nifti1Image:
    """`t1w` over the exponential of a smooth image on another grid, beyond it as at its border."""
    from scipy.ndimage import affine_transform

    data = np.asarray(t1w.dataobj, dtype=np.float32)
    to_voxel = np.linalg.inv(log_gain.affine) @ t1w.affine
    gain = affine_transform(
        np.asarray(log_gain.dataobj),
        to_voxel[:3, :3],
        to_voxel[:3, 3],
        output_shape=t1w.shape,
        order=1,
        mode="nearest",
        output=np.float32,
    )
    np.exp(gain, out=gain)
    return nib.Nifti1Image(data / gain, t1w.affine)


def jacobian(field: Displacement) -> NDArray[np.float32]:
    """(x, y, z) volume change of the map at the voxels of its field: 1 keeps volumes, below 0 folds."""
    sizes = np.linalg.norm(field.affine[:3, :3], axis=0)
    direction = field.affine[:3, :3] / sizes
    rows = []
    for axis in range(3):
        steps = np.gradient(field.field[..., axis].astype(np.float64), *sizes)  # along the grid's axes
        rows.append(np.stack(steps, axis=-1) @ np.linalg.inv(direction))
    return np.asarray(np.linalg.det(np.eye(3) + np.stack(rows, axis=-2)), dtype=np.float32)


def litres(mask: nib.Nifti1Image) -> float:
    """Volume of a mask."""
    return float((np.asarray(mask.dataobj) > 0).sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1e6)


def above(image: nib.Nifti1Image, share: float) -> nib.Nifti1Image:
    """Mask of the voxels above a share of the image's 99th percentile."""
    data = np.asarray(image.dataobj)
    return nib.Nifti1Image((data > share * np.percentile(data, 99)).astype(np.uint8), image.affine)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
