"""preproc/raw/verdict.py and agreement.py: limits on both sides, sentences, one person or two."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.demo.raw_cohort import COARSE, RawTruth, write_raw_cohort
from bjepa.preproc.demo.raw_error import demo_labels
from bjepa.preproc.demo.raw_head import grid_points
from bjepa.preproc.demo.raw_scan import nearest_labels
from bjepa.preproc.raw.agreement import agreement
from bjepa.preproc.raw.verdict import Limits, Thresholds, judge_anatomy, judge_run

F = NDArray[np.float64]
GOOD_ANATOMY = {
    "template_ncc": 0.88,
    "template_ncc_affine": 0.77,
    "affine_scale_ratio": 1.12,
    "brain_volume_l": 1.5,
    "template_coverage": 1.0,
    "jacobian_min": 0.6,
}
GOOD_RUN = {"mi_ratio": 5.0, "inner_mi_ratio": 4.5, "mask_overlap": 0.94, "shift_mm": 40.0}


def test_good_measures_have_no_findings_and_others_are_not_judged() -> None:
    assert judge_anatomy(GOOD_ANATOMY, Thresholds()) == []
    assert judge_run(GOOD_RUN, Thresholds()) == []
    assert judge_run({}, Thresholds()) == []


@pytest.mark.parametrize(
    ("measure", "value", "level", "says"),
    [
        ("template_ncc", 0.31, "fail", "correlation 0.31, 0.45 or more"),
        ("template_ncc", 0.50, "warn", "0.55 or more"),
        ("template_ncc_affine", 0.39, "fail", "correlation 0.39, 0.50 or more"),
        ("affine_scale_ratio", 1.36, "fail", "stretched 1.36 times"),
        ("affine_scale_ratio", 1.30, "warn", "1.27 or less"),
        ("brain_volume_l", 0.5, "fail", "0.50 litres, the limit is 0.70"),
        ("brain_volume_l", 2.4, "warn", "the limit is 2.30"),
        ("template_coverage", 0.62, "fail", "62% of the template's brain"),
        ("mi_ratio", 1.1, "fail", "1.10 times that 10 mm away"),
        ("mi_ratio", 1.5, "warn", "same person"),
        ("inner_mi_ratio", 0.9, "warn", "this participant's"),
        ("mask_overlap", 0.5, "fail", "50% only"),
    ],
)
def test_a_measure_beyond_its_limit_is_told(measure: str, value: float, level: str, says: str) -> None:
    judge, good = (judge_anatomy, GOOD_ANATOMY) if measure in GOOD_ANATOMY else (judge_run, GOOD_RUN)
    (finding,) = judge(good | {measure: value}, Thresholds())
    assert (finding.measure, finding.value, finding.level) == (measure, value, level)
    assert says in finding.sentence and finding.limit is not None
    json.dumps(asdict(finding), allow_nan=False)  # as it is written beside the registration


def test_every_threshold_has_a_sentence_and_decides() -> None:
    for one in fields(Thresholds):
        impossible = replace(Thresholds(), **{one.name: Limits(fail_below=1e6)})
        metrics = {one.name: 1.0}
        findings = judge_anatomy(metrics, impossible) + judge_run(metrics, impossible)
        assert [finding.level for finding in findings] == ["fail"]


def test_what_could_not_be_measured_has_failed() -> None:
    (finding,) = judge_run(GOOD_RUN | {"mi_ratio": float("nan")}, Thresholds())
    assert finding.level == "fail" and finding.value is None and "mi_ratio" in finding.sentence
    json.dumps(asdict(finding), allow_nan=False)


def test_limits_themselves_are_good() -> None:
    limits = Limits(fail_below=1.0, warn_below=2.0, warn_above=3.0, fail_above=4.0)
    judged = [limits.judge(value) for value in (0.9, 1.0, 2.0, 3.0, 3.1, 4.0, 4.1)]
    assert judged == [("fail", 1.0), ("warn", 2.0), None, None, ("warn", 3.0), ("warn", 3.0), ("fail", 4.0)]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[RawTruth]:
    still = replace(COARSE, motion_mm=1e-3)
    return write_raw_cohort(
        tmp_path_factory.mktemp("heads"), atlas_labels=demo_labels(), n_frames=12, seed=11, protocol=still
    )


def test_agreement_is_high_in_one_person_at_the_right_place_only(heads: list[RawTruth]) -> None:
    first, second = (_images(truth) for truth in heads)
    good = agreement(*first, heads[0].runs[0].to_t1w)
    assert good["inner_mi_ratio"] > 3 and good["mask_overlap"] > 0.9
    assert judge_run(good, Thresholds()) == []

    off = np.eye(4)
    off[:3, 3] = [2, -4, 3]
    assert agreement(*first, off @ heads[0].runs[0].to_t1w)["inner_mi_ratio"] < 0.6 * good["inner_mi_ratio"]

    boldref, mask, _, _ = first
    _, _, t1w, t1_mask = second
    together = nib.affines.from_matvec(np.eye(3), _centre(t1_mask) - _centre(mask))
    other = agreement(boldref, mask, t1w, t1_mask, together)
    assert other["inner_mi_ratio"] < 2.5 and other["mask_overlap"] > 0.7
    assert [finding.measure for finding in judge_run(other, Thresholds())] == ["inner_mi_ratio"]


def test_agreement_of_images_that_do_not_meet(heads: list[RawTruth]) -> None:
    away = nib.affines.from_matvec(np.eye(3), [500.0, 0, 0])
    found = agreement(*_images(heads[0]), away)
    assert found == {"inner_mi_ratio": 0.0, "mask_overlap": 0.0}
    assert "fail" in {finding.level for finding in judge_run(found, Thresholds())}


def test_agreement_knows_no_intensity_scale_and_no_gain(heads: list[RawTruth]) -> None:
    """The coil's smooth gain and the scanner's units change nothing that matters."""
    boldref, mask, t1w, t1_mask = _images(heads[0])
    matrix = heads[0].runs[0].to_t1w
    before = agreement(boldref, mask, t1w, t1_mask, matrix)
    x = np.linspace(0.7, 1.3, t1w.shape[0])[:, None, None]
    shaded = nib.Nifti1Image((np.asarray(t1w.dataobj) * x * 17).astype(np.float32), t1w.affine)
    after = agreement(boldref, mask, shaded, t1_mask, matrix)
    assert after["inner_mi_ratio"] == pytest.approx(before["inner_mi_ratio"], rel=0.03)


def _images(truth: RawTruth) -> tuple[nib.Nifti1Image, nib.Nifti1Image, nib.Nifti1Image, nib.Nifti1Image]:
    """Mean of the steady frames and its brain, T1w and its brain: masks from the truth."""
    from nilearn.datasets import load_mni152_brain_mask

    known = load_mni152_brain_mask(resolution=1)
    brain = nib.Nifti1Image(np.asarray(known.dataobj).astype(np.int16), known.affine)
    run = truth.runs[0]
    bold = np.asarray(nib.load(run.path).dataobj)[..., run.n_non_steady :].mean(axis=3).astype(np.float32)
    places = truth.template_points(run, grid_points(run.shape, run.affine))
    t1w = _loaded(truth.t1w)
    there = truth.to_template(grid_points(t1w.shape, t1w.affine))
    return (
        nib.Nifti1Image(bold, run.affine),
        nib.Nifti1Image(nearest_labels(brain, places).reshape(run.shape).astype(np.uint8), run.affine),
        t1w,
        nib.Nifti1Image(nearest_labels(brain, there).reshape(t1w.shape).astype(np.uint8), t1w.affine),
    )


def _loaded(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    return nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32), image.affine)


def _centre(mask: nib.Nifti1Image) -> F:
    voxels = np.argwhere(np.asarray(mask.dataobj) > 0)
    return np.asarray(apply_affine(mask.affine, voxels).mean(axis=0))
