"""`bjepa-preprocess --dry-run` for a raw run: what its headers and sidecars foretell; no image is read.

Its confounds do not exist yet, but the number of their columns is known, so that a run too short to be
cleaned is refused here as it will be then. Frames that are not steady and the number of CompCor's components
are not known: none are counted.
"""

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bjepa.preproc.group_stage import GroupOptions
from bjepa.preproc.inputs import ScanSource
from bjepa.preproc.participant_stage import ParticipantOptions
from bjepa.preproc.strategies import arguments_of

if TYPE_CHECKING:
    from bjepa.preproc.raw.participant import RawSetup

COLUMNS = (
    *("scan", "kind", "frames", "TR (s)", "stride", "TR out (s)", "frames out", "series"),
    *("T1w", "slice times", "confounds", "told"),
)
_OF_MODEL = {"basic": 1, "power2": 2, "derivatives": 2, "full": 4}  # columns for each signal
_SIGNALS = {"motion": 6, "wm_csf": 2, "global_signal": 1}


def row(
    scan: ScanSource, participant: ParticipantOptions, group: GroupOptions, raw: "RawSetup"
) -> tuple[list[str], set[str]]:
    """The columns after scan and kind, and what is to be noted; refused as the run refuses."""
    from bjepa.preproc.clean import Confounds, plan_cleaning
    from bjepa.preproc.participant_stage import input_files
    from bjepa.preproc.raw.header import check_raw_header, check_slices, check_t1w_header, header_notes
    from bjepa.preproc.repetition_time import decide_t_r
    from bjepa.preproc.resample import plan_resampling
    from bjepa.preproc.stream import open_bold

    if scan.error is not None:
        raise scan.error
    bold = open_bold(scan.path)
    check_raw_header(bold)
    t_r = decide_t_r(scan, bold.header_t_r, participant.t_r)
    input_files(scan)  # refused where one is not there
    for image in (scan.t1w, scan.t1_mask):
        if image is not None:
            check_t1w_header(image)
    times = scan.slice_times
    if raw.options.slice_timing and times is not None:
        check_slices(bold, times, scan.slice_axis, t_r)
    strategy = participant.cleaning.confounds
    values = made_up_confounds(strategy, bold.n_frames, t_r)
    auto = participant.cleaning.drop_initial == "auto"
    cleaning = replace(participant.cleaning, drop_initial=0) if auto else participant.cleaning
    cleaned = plan_cleaning(bold.n_frames, Confounds(values=values), cleaning, t_r=t_r)
    plan = plan_resampling(t_r, bold.n_frames - cleaned.n_dropped, group.resampling)
    notes = [*scan.notes, *header_notes(bold, t_r), plan.warning, *cleaned.warnings]
    told = {note for note in notes if note}
    more = strategy != "none" and "compcor" in arguments_of(strategy)["strategy"]
    return [
        str(bold.n_frames),
        f"{t_r:g}",
        str(plan.stride),
        f"{plan.t_r_out:g}",
        f"{'at most ' if auto else ''}{plan.n_frames_out}",
        str(plan.n_phases),
        "none" if scan.t1w is None else scan.t1w.name,
        "none" if times is None else ("used" if raw.options.slice_timing else "there, not used"),
        f"{0 if values is None else values.shape[1]}{' and CompCor' if more else ''}",
        str(len(told)) if told else "",
    ], told


def made_up_confounds(strategy: str | dict[str, Any], n_frames: int, t_r: float) -> "pd.DataFrame | None":
    """As many columns as the run's confounds will have, noise but for the cosines; None: none asked for."""
    from nilearn.interfaces.fmriprep import load_confounds

    from bjepa.preproc.raw.compcor import cosine_drifts

    if strategy == "none":
        return None
    arguments = arguments_of(strategy)
    defaults = inspect.signature(load_confounds).parameters
    n_signals = sum(
        number * _OF_MODEL[arguments.get(name, defaults[name].default)]
        for name, number in _SIGNALS.items()
        if name in arguments["strategy"]
    )
    noise = np.random.default_rng(0).normal(size=(n_frames, n_signals))
    drifts = cosine_drifts(n_frames, t_r) if "high_pass" in arguments["strategy"] else np.empty((n_frames, 0))
    values = np.hstack([noise, drifts])
    return pd.DataFrame(values, columns=[f"confound{k}" for k in range(values.shape[1])])
