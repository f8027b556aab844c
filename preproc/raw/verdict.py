"""Is a registration right? Measures, what good and wrong ones look like, and what to tell the user.

A measure beyond its `fail` limit stops the participant or run (`failures.tsv` says why), beyond its `warn`
limit it is told with the scan. Limits lie between what was seen with good and with deliberately broken
inputs: docs/raw_quality.md has all values. A left-right flip cannot be seen by any of them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Where a measure becomes doubtful and where it says failed; None = no limit on that side."""

    fail_below: float | None = None
    warn_below: float | None = None
    warn_above: float | None = None
    fail_above: float | None = None

    def judge(self, value: float) -> tuple[Level, float] | None:
        """The level and the limit that a finite `value` has crossed; None where it is good."""
        levels: list[tuple[Level, float | None, float | None]] = [
            ("fail", self.fail_below, self.fail_above),
            ("warn", self.warn_below, self.warn_above),
        ]
        for level, below, above in levels:
            if below is not None and value < below:
                return level, below
            if above is not None and value > above:
                return level, above
        return None


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Limits of every measure; a field has the measure's name. Evidence: docs/raw_quality.md.

    Of a T1w image:
    template_ncc : correlation of T1w and template within the brain after the nonlinear registration
    template_ncc_affine : before it; a warp makes even a wrong image alike, an affine map does not
    orientation_ratio : mutual information with the template as the header has the axes, over the best of the
        other 23 right-angled turns: below 1 another orientation fits better
    affine_scale_ratio : largest over smallest stretch of the affine part
    brain_volume_l : volume of the brain mask, litres
    template_coverage : share of the template's brain that the T1w image holds
    Of a run:
    mi_ratio : mutual information of BOLD and T1w at the solution over its mean 10 mm away
    inner_mi_ratio : the same within the brain alone, 4 mm away (agreement.py): is it the same person? Never
        fails: a noisy or distorted image cannot tell
    mask_overlap : Dice coefficient of the brain masks of BOLD and T1w, within the run's grid
    """

    template_ncc: Limits = field(default_factory=lambda: Limits(fail_below=0.45, warn_below=0.55))
    template_ncc_affine: Limits = field(default_factory=lambda: Limits(fail_below=0.5, warn_below=0.6))
    orientation_ratio: Limits = field(default_factory=lambda: Limits(fail_below=1.0, warn_below=1.3))
    affine_scale_ratio: Limits = field(default_factory=lambda: Limits(warn_above=1.27, fail_above=1.33))
    brain_volume_l: Limits = field(
        default_factory=lambda: Limits(fail_below=0.7, warn_below=0.9, warn_above=2.3, fail_above=2.6)
    )
    template_coverage: Limits = field(default_factory=lambda: Limits(fail_below=0.8, warn_below=0.9))
    mi_ratio: Limits = field(default_factory=lambda: Limits(fail_below=1.3, warn_below=1.7))
    inner_mi_ratio: Limits = field(default_factory=lambda: Limits(warn_below=2.8))
    mask_overlap: Limits = field(default_factory=lambda: Limits(fail_below=0.6, warn_below=0.85))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A measure beyond a limit, and the sentence to tell the user. None: it could not be measured."""

    measure: str
    value: float | None
    limit: float | None
    level: Level
    sentence: str


_ANATOMY = (
    "template_ncc",
    "template_ncc_affine",
    "orientation_ratio",
    "affine_scale_ratio",
    "brain_volume_l",
    "template_coverage",
)
_RUN = ("mi_ratio", "inner_mi_ratio", "mask_overlap")

_SENTENCES = {  # what is wrong: {value}, what is asked for: {limit}, what to check
    "template_ncc": "After registration the T1w image does not look like the template: correlation "
    "{value:.2f}, {limit:.2f} or more is expected. Check that its axes are labelled rightly (front is "
    "front, up is up) and that it is a whole T1-weighted head.",
    "template_ncc_affine": "Turned and stretched onto the template the T1w image does not look like it: "
    "correlation {value:.2f}, {limit:.2f} or more is expected. Check that its axes are labelled rightly "
    "(front is front, up is up) and that it is a whole T1-weighted head.",
    "orientation_ratio": "The image fits the template about as well or better when its axes are turned: "
    "mutual information as the header has them is {value:.2f} times that of the best other orientation, "
    "{limit:.2f} or more is expected. Check how it was converted: its axes are labelled wrongly.",
    "affine_scale_ratio": "To fit the template the T1w image had to be stretched {value:.2f} times more "
    "along one direction than along another, {limit:.2f} or less is expected. Check its voxel size and "
    "orientation, and that it shows the whole brain of an adult.",
    "brain_volume_l": "The brain mask of the T1w image holds {value:.2f} litres, the limit is {limit:.2f}. "
    "Check the mask in the picture, or give one with --t1-mask.",
    "template_coverage": "The T1w image holds only {value:.0%} of the template's brain, {limit:.0%} or more "
    "is expected. Check that it is not cropped.",
    "mi_ratio": "The mean BOLD and the T1w image have little in common where they were laid on each other: "
    "mutual information is {value:.2f} times that 10 mm away, {limit:.2f} or more is expected. Check that "
    "both are of the same person and oriented rightly.",
    "inner_mi_ratio": "Within the brain the mean BOLD and the T1w image agree too little to tell that they "
    "are of one person: mutual information is {value:.2f} times that 4 mm away, {limit:.2f} or more is "
    "expected. Check that the T1w image is this participant's; strong distortion or noise does it too.",
    "mask_overlap": "The brain in the BOLD and the brain in the T1w image overlap by {value:.0%} only, "
    "{limit:.0%} or more is expected. Look at the outlines in the pictures: one of the masks, or the "
    "registration, is wrong.",
}


def judge_anatomy(metrics: Mapping[str, float], thresholds: Thresholds) -> list[Finding]:
    """Findings of a T1w image's registration to the template, in the order of `Thresholds`."""
    return _judge(_ANATOMY, metrics, thresholds)


def judge_run(metrics: Mapping[str, float], thresholds: Thresholds) -> list[Finding]:
    """Findings of a run's registration to its T1w image, in the order of `Thresholds`."""
    return _judge(_RUN, metrics, thresholds)


def _judge(names: tuple[str, ...], metrics: Mapping[str, float], thresholds: Thresholds) -> list[Finding]:
    """Measures that were not taken (there was no T1w image) are not judged."""
    findings = []
    for name in names:
        if name not in metrics:
            continue
        value, limits = float(metrics[name]), getattr(thresholds, name)
        if not math.isfinite(value):
            sentence = f"{name} could not be measured: the images hold too little in common."
            findings.append(Finding(measure=name, value=None, limit=None, level="fail", sentence=sentence))
        elif (judged := limits.judge(value)) is not None:
            level, limit = judged
            sentence = _SENTENCES[name].format(value=value, limit=limit)
            findings.append(Finding(measure=name, value=value, limit=limit, level=level, sentence=sentence))
    return findings
