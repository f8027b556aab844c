"""raw/anatomy.py and t1w.py: a simulated head whose deformation is known, wrong inputs, refusals.

Everything here runs `sloppy` at 4 mm; what full quality reaches is in the slow test and in docs/raw.md.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.preproc.demo.raw_head import build_head, draw_deformation, draw_shape, grid_points, oblique_grid
from bjepa.preproc.demo.raw_scan import make_scene, render_t1w
from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.anatomy import Anatomy, divided, jacobian, prepare_anatomy, prepare_without_t1w
from bjepa.preproc.raw.displacement import Displacement
from bjepa.preproc.raw.options import RawOptions
from bjepa.preproc.raw.reference import bold_mask
from bjepa.preproc.raw.t1w import read_t1_mask, read_t1w, stripped_brain
from bjepa.preproc.raw.template import Template, choose_template
from bjepa.preproc.raw.verdict import Thresholds, judge_anatomy
from bjepa.preproc.raw.work_grid import grid_around, points_in_mask, resample, sample

SLOPPY = RawOptions(sloppy=True)
CENTRE = np.array([9.0, -14.0, 6.0])  # of the brain in the T1w, mm


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """Files and truth. brain : (n, 3) mm, T1w points of the brain; to_t1w : of the BOLD's points."""

    template: Template
    t1w: Path
    stripped: Path
    mask: Path
    boldref: nib.Nifti1Image
    bold_mask: nib.Nifti1Image
    to_template: Displacement
    to_t1w: np.ndarray
    brain: np.ndarray

    def errors(self, anatomy: Anatomy) -> np.ndarray:
        """(n,) mm, how far the brain's points are from where they belong in the template."""
        apart = anatomy.to_template(self.brain) - self.to_template(self.brain)
        return np.asarray(np.linalg.norm(apart, axis=1))

    def prepare(self, t1w: Path, mask: Path | None = None) -> Anatomy:
        return prepare_anatomy(
            t1w, self.template, boldref=self.boldref, bold_mask=self.bold_mask, t1_mask=mask, options=SLOPPY
        )


@pytest.fixture(scope="module")
def subject(tmp_path_factory: Any) -> Any:
    """A head of 3 mm, P S R and turned; its EPI of 4 mm lies 12 mm and 5 degrees elsewhere."""
    from nilearn.datasets import load_mni152_template

    folder = tmp_path_factory.mktemp("head")
    fine = load_mni152_template(resolution=1)
    coarse = resample(fine, grid_around(points_in_mask(fine), 3.0, 9.0))
    values = np.asarray(coarse.dataobj)
    brain = nib.Nifti1Image(np.where(values > 0.2 * values.max(), values, 0), coarse.affine)
    nib.save(brain, folder / "tpl-MNI152NLin2009cAsym_desc-brain_T1w.nii.gz")
    template = choose_template(folder / "tpl-MNI152NLin2009cAsym_desc-brain_T1w.nii.gz")
    rng = np.random.default_rng(11)
    head, shape = build_head(template.brain()), draw_shape(rng)
    to_template = draw_deformation(rng, CENTRE, warp_mm=6.0)
    grid = (80, 70, 66)
    affine = oblique_grid(
        grid, np.array([2.9, 3.1, 3.0]), "PSR", CENTRE - np.array([0, 0, 10.0]), np.deg2rad([4, -6, 3])
    )
    data = render_t1w(rng, head, shape, to_template, grid, affine, noise=0.03)
    points = grid_points(grid, affine)
    inside = (head.sample(head.inside, to_template(points)) > 0.5).reshape(grid)
    images: dict[str, Any] = {"head": data, "stripped": data * inside, "mask": inside.astype(np.uint8)}
    for name, values in images.items():
        nib.save(nib.Nifti1Image(values, affine), folder / f"{name}.nii.gz")

    to_t1w = oblique_grid((1, 1, 1), np.ones(3), "RAS", CENTRE, np.deg2rad([5, -3, 2]))
    to_t1w = to_t1w @ nib.affines.from_matvec(np.eye(3), -(CENTRE + np.array([7.0, -9, 5])))
    bold_shape = (50, 54, 36)
    bold_affine = oblique_grid(
        bold_shape, np.array([4.0, 4, 4.2]), "LAS", CENTRE + np.array([9.0, -6, 8]), np.zeros(3)
    )
    nothing = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    scene = make_scene(
        head, shape, to_template, to_t1w, nothing, bold_shape, bold_affine, dropout=True, distortion_mm=0
    )
    boldref = nib.Nifti1Image(
        1000
        * sample(nib.Nifti1Image(scene.base, scene.affine), grid_points(bold_shape, bold_affine))
        .reshape(bold_shape)
        .astype(np.float32),
        bold_affine,
    )
    return Subject(
        template=template,
        t1w=folder / "head.nii.gz",
        stripped=folder / "stripped.nii.gz",
        mask=folder / "mask.nii.gz",
        boldref=boldref,
        bold_mask=bold_mask(boldref),
        to_template=to_template,
        to_t1w=to_t1w,
        brain=points[inside.ravel()],
    )


@pytest.fixture(scope="module")
def whole(ants: Any, subject: Any) -> Any:
    return subject.prepare(subject.t1w)


@pytest.fixture(scope="module")
def stripped(ants: Any, subject: Any) -> Any:
    return subject.prepare(subject.stripped)


def overlap(a: Any, b: Any) -> Any:
    """Dice coefficient of two masks."""
    a, b = np.asarray(a.dataobj) > 0, np.asarray(b.dataobj) > 0
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_whole_head_is_stripped_and_lands_on_the_template(subject: Any, whole: Any) -> None:
    errors = subject.errors(whole)
    print(np.percentile(errors, [50, 95]), whole.metrics, overlap(whole.brain_mask, nib.load(subject.mask)))
    assert np.median(errors) < 2.0
    assert np.percentile(errors, 95) < 5.0
    assert overlap(whole.brain_mask, nib.load(subject.mask)) > 0.93
    assert judge_anatomy(whole.metrics, Thresholds()) == []
    assert whole.metrics["orientation_ratio"] > 1.4
    original = nib.load(subject.t1w)
    assert_allclose(whole.t1w.affine, original.affine)
    assert whole.t1w.shape == whole.brain_mask.shape == original.shape
    assert whole.t1w.get_data_dtype() == np.float32
    assert whole.brain_mask.get_data_dtype() == np.uint8


def test_a_stripped_head_lands_there_too_and_keeps_its_mask(subject: Any, stripped: Any) -> None:
    errors = subject.errors(stripped)
    print(np.percentile(errors, [50, 95]), stripped.metrics)
    assert np.median(errors) < 1.5
    assert overlap(stripped.brain_mask, nib.load(subject.mask)) > 0.98
    assert judge_anatomy(stripped.metrics, Thresholds()) == []


@pytest.mark.slow
def test_a_given_mask_does_what_stripping_does(subject: Any, stripped: Any) -> None:
    given = subject.prepare(subject.t1w, subject.mask)
    assert_array_equal(
        np.asarray(given.brain_mask.dataobj) > 0, np.asarray(nib.load(subject.mask).dataobj) > 0
    )
    apart = given.to_template(subject.brain) - stripped.to_template(subject.brain)
    assert np.median(np.linalg.norm(apart, axis=1)) < 0.5
    assert (
        np.asarray(given.t1w.dataobj)[np.asarray(given.brain_mask.dataobj) == 0] > 0
    ).any()  # whole head kept


def test_there_and_back_is_where_it_was(subject: Any, whole: Any) -> None:
    back = whole.from_template(whole.to_template(subject.brain))
    gap = np.linalg.norm(back - subject.brain, axis=1)
    assert np.median(gap) < 0.3
    assert np.percentile(gap, 99) < 1.5


def test_on_the_template_it_looks_like_the_template(subject: Any, whole: Any) -> None:
    on = whole.on_template
    assert_allclose(nib.affines.voxel_sizes(on.affine), 2)
    brain = subject.template.brain()
    points = points_in_mask(brain)
    assert np.corrcoef(sample(on, points), sample(brain, points))[0, 1] > 0.6
    outside = np.asarray(sample(brain, grid_points(on.shape, on.affine)) == 0)
    values = np.asarray(on.dataobj).ravel()
    assert values[outside].mean() < 0.1 * values[~outside].mean()  # the scalp is off


def test_the_coils_gain_is_gone(subject: Any, whole: Any) -> None:
    """White matter varied by tens of percent; the bias correction takes most of that."""
    head = nib.load(subject.t1w)
    there = subject.to_template(subject.brain)
    level = sample(subject.template.brain(), there)
    white = subject.brain[level > np.percentile(level, 85)]
    before, after = sample(head, white), sample(whole.t1w, white)
    spread = [np.subtract(*np.percentile(v, [90, 10])) / np.median(v) for v in (before, after)]
    assert spread[1] < 0.85 * spread[0], spread  # the noise stays


@pytest.mark.slow
def test_same_input_same_bytes(subject: Any, stripped: Any) -> None:
    again = subject.prepare(subject.stripped)
    assert again.to_template.field.tobytes() == stripped.to_template.field.tobytes()
    assert again.from_template.field.tobytes() == stripped.from_template.field.tobytes()
    assert np.asarray(again.t1w.dataobj).tobytes() == np.asarray(stripped.t1w.dataobj).tobytes()
    assert again.metrics == stripped.metrics


@pytest.mark.slow
def test_points_above_a_t1w_that_is_cut_off_have_a_place(subject: Any, tmp_path: Any) -> None:
    """The top 12 mm of the brain are missing in the T1w, not in the BOLD: the field reaches there."""
    image = nib.load(subject.stripped)
    points = grid_points(image.shape, image.affine)
    top = np.percentile(subject.brain[:, 2], 99.9) - 12
    data = np.asarray(image.dataobj) * (points[:, 2] < top).reshape(image.shape)
    nib.save(nib.Nifti1Image(data, image.affine), tmp_path / "cut.nii.gz")
    cut = subject.prepare(tmp_path / "cut.nii.gz")
    above = subject.brain[:, 2] > top
    errors = subject.errors(cut)
    assert np.median(errors[~above]) < 2.5
    assert np.median(errors[above]) < 8.0  # stretched: what is missing cannot be matched


def test_half_a_head_is_told(subject: Any, tmp_path: Any) -> None:
    image = nib.load(subject.stripped)
    points = grid_points(image.shape, image.affine)
    data = np.asarray(image.dataobj) * (points[:, 0] < CENTRE[0]).reshape(image.shape)
    nib.save(nib.Nifti1Image(data, image.affine), tmp_path / "half.nii.gz")
    failed = judge_anatomy(subject.prepare(tmp_path / "half.nii.gz").metrics, Thresholds())
    assert [finding for finding in failed if finding.level == "fail"], failed


def test_wrong_axes_are_told(subject: Any, tmp_path: Any) -> None:
    """A header whose axes are exchanged: the front of the head is said to be its top."""
    image = nib.load(subject.stripped)
    turn = nib.affines.from_matvec([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), tmp_path / "turned.nii.gz")
    metrics = subject.prepare(tmp_path / "turned.nii.gz").metrics
    assert metrics["orientation_ratio"] < 0.7, metrics
    assert metrics["template_ncc"] < 0.7, metrics


def test_without_t1w_the_bold_is_placed_roughly(ants: Any, subject: Any) -> None:
    anatomy = prepare_without_t1w(subject.boldref, subject.bold_mask, subject.template, options=SLOPPY)
    points = points_in_mask(subject.bold_mask)
    truth = subject.to_template(apply_affine(subject.to_t1w, points))
    errors = np.linalg.norm(anatomy.to_template(points) - truth, axis=1)
    assert np.median(errors) < 8.0
    assert_array_equal(np.asarray(anatomy.t1w.dataobj), np.asarray(subject.boldref.dataobj))
    assert anatomy.metrics["affine_scale_ratio"] == pytest.approx(1, abs=1e-3)  # a similarity
    back = anatomy.from_template(anatomy.to_template(points))
    assert_allclose(back, points, atol=0.05)


def test_an_empty_bold_mask_is_refused(ants: Any, subject: Any) -> None:
    empty = nib.Nifti1Image(np.zeros(subject.boldref.shape, np.uint8), subject.boldref.affine)
    with pytest.raises(InputError, match="mask of the BOLD run is empty"):
        prepare_without_t1w(subject.boldref, empty, subject.template, options=SLOPPY)


def test_a_failed_registration_names_the_file(ants: Any, subject: Any, monkeypatch: Any) -> None:
    from bjepa.preproc.raw.ants import Ants, RegistrationError

    def fail(*_args: Any, **_options: Any) -> None:
        raise RegistrationError("No valid points were found")

    monkeypatch.setattr(Ants, "warp", fail)
    with pytest.raises(InputError, match=r"stripped\.nii\.gz could not be registered to .*No valid points"):
        subject.prepare(subject.stripped)


# --- reading ------------------------------------------------------------------------------------------------

AFFINE = np.array([[0, 0, -4.0, 90], [5, 0, 0, -100], [0, 4.5, 0, -70], [0, 0, 0, 1]])  # A S L
SHAPE = (36, 40, 42)


def head_values(seed: Any = 0) -> Any:
    """A ball of a head, values 50 to 250, in noise."""
    x, y, z = np.indices(SHAPE)
    ball = ((x - 17) / 17) ** 2 + ((y - 20) / 19) ** 2 + ((z - 20) / 19) ** 2 < 1
    noise = np.random.default_rng(seed).uniform(1, 20, SHAPE)
    return noise + 200 * ball


def write(path: Any, data: Any, affine: Any = AFFINE, code: Any = 1) -> Any:
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code)
    image.set_qform(affine if code else None, code)
    nib.save(image, path)
    return path


def test_reads_integers_with_slope_single_volumes_and_mends_nan(tmp_path: Any) -> None:
    values = head_values()
    image = nib.Nifti1Image(np.rint(values / 0.5).astype(np.int16)[..., None], AFFINE)
    image.header.set_slope_inter(0.5, 0)
    path = tmp_path / "scaled.nii"
    nib.save(image, path)
    raw = nib.Nifti1Image.from_filename(path)
    read = read_t1w(path)
    assert read.shape == SHAPE
    assert_allclose(np.asarray(read.dataobj), raw.get_fdata()[..., 0], rtol=1e-6)
    holes = values.astype(np.float32)
    holes[3, 4, 5], holes[6, 7, 8], holes[9, 9, 9] = np.nan, np.inf, -np.inf
    mended = np.asarray(read_t1w(write(tmp_path / "nan.nii.gz", holes)).dataobj)
    assert np.isfinite(mended).all()
    assert mended[3, 4, 5] == mended[6, 7, 8] == mended[9, 9, 9] == 0
    assert np.linalg.det(AFFINE) < 0  # left-handed is as good
    assert_allclose(read.affine, AFFINE)


@pytest.mark.parametrize(
    "data, affine, code, says",
    [
        (np.ones((*SHAPE, 3), np.float32), AFFINE, 1, r"must be one 3D image, got shape \(36, 40, 42, 3\)"),
        (np.ones(SHAPE[:2], np.float32), AFFINE, 1, "must be one 3D image"),
        (np.ones(SHAPE, np.float32), AFFINE, 1, "is empty: all its voxels are 1"),
        (np.full(SHAPE, np.nan, np.float32), AFFINE, 1, "is empty: all its voxels are 0"),
        (head_values(), AFFINE, 0, "has no orientation"),
        (head_values(), np.diag([0.1, 0.1, 0.1, 1]), 1, "mm large; a head needs 50 to 600"),
        (head_values(), np.diag([100.0, 100, 100, 1]), 1, "mm large; a head needs 50 to 600"),
    ],
)
def test_refuses_what_is_no_t1w(data: Any, affine: Any, code: Any, says: Any, tmp_path: Any) -> None:
    with pytest.raises(InputError, match=says) as refused:
        read_t1w(write(tmp_path / "t1w.nii.gz", data, affine, code))
    assert "t1w.nii.gz" in str(refused.value)


def test_refuses_what_is_no_image(tmp_path: Any) -> None:
    (tmp_path / "t1w.nii.gz").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"T1w image .*t1w\.nii\.gz cannot be read"):
        read_t1w(tmp_path / "t1w.nii.gz")
    with pytest.raises(InputError, match="cannot be read"):
        read_t1w(tmp_path / "missing.nii.gz")
    whole = write(tmp_path / "cut.nii.gz", head_values())
    whole.write_bytes(whole.read_bytes()[:20000])
    with pytest.raises(InputError, match=r"cut\.nii\.gz cannot be read"):
        read_t1w(whole)


def test_refuses_a_mask_of_another_image_or_an_empty_one(tmp_path: Any) -> None:
    t1w = read_t1w(write(tmp_path / "t1w.nii.gz", head_values()))
    cases = [
        (np.ones((36, 40, 41), np.uint8), AFFINE, "is not on the grid of .*t1w"),
        (np.ones(SHAPE, np.uint8), AFFINE + _moved(), "is not on the grid"),
        (np.zeros(SHAPE, np.uint8), AFFINE, "is empty"),
    ]
    for data, affine, says in cases:
        with pytest.raises(InputError, match=says):
            read_t1_mask(write(tmp_path / "mask.nii.gz", data, affine), t1w, tmp_path / "t1w.nii.gz")


def _moved() -> Any:
    shift = np.zeros((4, 4))
    shift[0, 3] = 2.0
    return shift


def test_tells_a_stripped_head_from_a_whole_one() -> None:
    x, y, z = np.indices(SHAPE)
    ball = ((x - 17) / 11) ** 2 + ((y - 20) / 14) ** 2 + ((z - 20) / 15) ** 2 < 1  # 0.87 l
    brain = np.where(ball, head_values(), 0)
    brain[17, 20, 20] = 0  # a hole is filled
    ringing = brain + np.where(ball, 0, np.random.default_rng(0).normal(0, 0.3, SHAPE))
    for values in (brain, ringing):
        mask = stripped_brain(nib.Nifti1Image(values.astype(np.float32), AFFINE))
        assert mask is not None
        assert_array_equal(np.asarray(mask.dataobj) > 0, ball)
    assert stripped_brain(nib.Nifti1Image(head_values().astype(np.float32), AFFINE)) is None
    larger = AFFINE @ np.diag([1.1, 1.1, 1.1, 1])
    black = np.where(head_values() > 100, head_values(), 0)  # a head whose background is 0: 3.0 l
    assert stripped_brain(nib.Nifti1Image(black.astype(np.float32), larger)) is None


def test_the_gain_is_divided_out_in_mm_not_voxels() -> None:
    grid = grid_around(np.array([[-60.0, -70, -50], [60, 70, 60]]), 8.0, 8.0)
    log_gain = grid.image((grid.points() @ [0.002, -0.003, 0.004]).astype(np.float32))
    image = nib.Nifti1Image(np.full(SHAPE, 7.0, np.float32), AFFINE)
    voxels = np.array([[18, 19, 20], [11, 22, 17]])
    expected = 7 / np.exp(apply_affine(AFFINE, voxels) @ [0.002, -0.003, 0.004])
    assert_allclose(np.asarray(divided(image, log_gain).dataobj)[tuple(voxels.T)], expected, rtol=1e-5)


def test_jacobian_of_a_linear_map_is_its_determinant() -> None:
    matrix = np.array([[1.2, 0.1, 0], [0, 0.9, -0.2], [0.1, 0, 1.1]])
    turned = oblique_grid((6, 7, 5), np.array([2.0, 3, 4]), "PSR", np.zeros(3), np.deg2rad([20, 10, -30]))
    points = grid_points((6, 7, 5), turned)
    field = Displacement((points @ matrix.T - points).reshape(6, 7, 5, 3).astype(np.float32), turned)
    assert_allclose(jacobian(field), np.linalg.det(matrix), rtol=1e-4)


# --- full quality -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_pair_at_full_quality(ants: Any, shared: Any) -> None:
    """All 450 regions on the grid of a real EPI, through a real T1w."""
    from bjepa.preproc import load_atlas
    from bjepa.preproc.raw.coregister import coregister
    from bjepa.preproc.raw.subject_atlas import RunSpace, subject_labels

    folder = shared / "data" / "raw"
    template = choose_template(folder / "template" / "MNI152_2009_template.nii.gz", "MNI152NLin2009cAsym")
    boldref = nib.load(folder / "coreg_qa" / "example_func.nii.gz")
    mask, options = bold_mask(boldref), replace(SLOPPY, sloppy=False)
    anatomy = prepare_anatomy(
        folder / "coreg_qa" / "highres.nii.gz",
        template,
        boldref=boldref,
        bold_mask=mask,
        t1_mask=None,
        options=options,
    )
    assert judge_anatomy(anatomy.metrics, Thresholds()) == []
    assert anatomy.metrics["template_ncc"] > 0.68  # 0.74 seen
    assert anatomy.metrics["template_ncc_warped"] > anatomy.metrics["template_ncc"]
    assert anatomy.metrics["orientation_ratio"] > 1.4  # 1.9 seen
    assert anatomy.metrics["jacobian_min"] > 0.3
    rigid = coregister(boldref, mask, anatomy.t1w, anatomy.brain_mask, options=options).matrix
    atlas = load_atlas(
        "tian-s3+schaefer-400", space="MNI152NLin2009cAsym", atlas_dir=shared / "data" / "atlas"
    )
    space = RunSpace(
        shape=boldref.shape,
        affine=boldref.affine,
        to_template=lambda points: anatomy.to_template(apply_affine(rigid, points)),
        from_template=lambda points: apply_affine(np.linalg.inv(rigid), anatomy.from_template(points)),
    )
    counts = np.bincount(subject_labels(atlas, space).ravel(), minlength=451)[1:]
    assert counts.min() >= 5  # 8 seen
