"""A shard against the options that it says it was made with."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bjepa.preproc.check.problem import RUN_GROUP, Problem
from bjepa.preproc.errors import InputError
from bjepa.preproc.resample import ResampleOptions, plan_resampling

PER_SCAN = ("robust-dynamic", "zscore-scan")  # scalings with an offset and a scale for each scan
FITS_NOTHING = ("zscore-scan", "none")  # scalings that no participant enters


def options_of(shard: Any) -> dict[str, Any]:
    """The options of both stages; {} where there are none (earlier versions) or none can be read."""
    try:
        told = json.loads(shard.attrs.get("options", "{}"))
    except ValueError:  # told as a problem of the attribute
        return {}
    return told if isinstance(told, dict) else {}


def resampling_of(options: dict[str, Any]) -> ResampleOptions | None:
    """How the scans were brought to one t_r; None where the options do not tell. May raise InputError."""
    group = options.get("group") or {}
    if not {"target_t_r", "resample", "phases"} <= group.keys():
        return None
    return ResampleOptions(target_t_r=group["target_t_r"], how=group["resample"], phases=group["phases"])


def check_options(path: Path, shard: Any) -> Iterator[Problem]:
    """Scaling, target, t_r_out and who fits the scaling are what the options make of the scans."""
    options = options_of(shard)
    group = options.get("group") or {}
    for attribute in ("scaling", "target_t_r"):
        if attribute in group and group[attribute] != shard.attrs[attribute]:
            what = f"{attribute} is {shard.attrs[attribute]}, its options say {group[attribute]}."
            yield Problem(path, what, RUN_GROUP)
    yield from _resampled(path, shard, options)
    yield from _fitting(path, shard, group)
    if ("scans/scale" in shard) != (shard.attrs["scaling"] in PER_SCAN):
        has = "has" if "scans/scale" in shard else "lacks"
        what = f"{has} /scans/offset and /scans/scale, with scaling {shard.attrs['scaling']}."
        yield Problem(path, what, RUN_GROUP)


def _resampled(path: Path, shard: Any, options: dict[str, Any]) -> Iterator[Problem]:
    try:
        resampling = resampling_of(options)
        if resampling is None:
            return
        names = shard["scans/scan_id"].asstr()[:].tolist()
        for name, t_r, stored in zip(
            names, *(shard[f"scans/{n}"][:].tolist() for n in ("t_r", "t_r_out")), strict=True
        ):
            if not t_r > 0:  # told of the index
                continue
            wanted = plan_resampling(t_r, 1, resampling).t_r_out
            if not np.isclose(stored, wanted, rtol=1e-9, atol=0):
                what = f"{name} has t_r_out {stored:g} s; its t_r of {t_r:g} s is resampled to {wanted:g} s."
                yield Problem(path, what, RUN_GROUP)
    except (InputError, TypeError) as error:
        yield Problem(path, f"its options tell a resampling that is not possible ({error}).", RUN_GROUP)


def _fitting(path: Path, shard: Any, group: dict[str, Any]) -> Iterator[Problem]:
    """Who fits is known where nobody or everybody does; of named participants a shard has only the hash."""
    if "scans/fits_scaling" not in shard or "scaling_participants" not in group:
        return
    fits = shard["scans/fits_scaling"][:]  # (n_scans,)
    if group.get("scaling") in FITS_NOTHING:
        if fits.any():
            what = f"/scans/fits_scaling is true of {fits.sum()} scans; {group['scaling']} fits nothing."
            yield Problem(path, what, RUN_GROUP)
    elif group["scaling_participants"] is None:
        if not fits.all():
            what = f"/scans/fits_scaling is false of {(~fits).sum()} scans; all fit the scaling."
            yield Problem(path, what, RUN_GROUP)
    else:
        participants = shard["scans/participant_id"].asstr()[:]
        if split := sorted(set(participants[fits]) & set(participants[~fits])):
            what = f"/scans/fits_scaling is true of some scans of {split[0]} and false of others."
            yield Problem(path, what, RUN_GROUP)
