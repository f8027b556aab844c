"""report.html of preprocessing: what was done, what failed, and the pictures in which a fault shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc import scan_files
from bjepa.preproc.atlas import Atlas
from bjepa.preproc.group_stage import GroupOptions, GroupResult
from bjepa.preproc.html import figure_uri, write_page

_N_PICTURED = 6  # scans shown as carpets


def write_report(output: Path, atlas: Atlas, result: GroupResult, options: GroupOptions) -> None:
    """Write OUTPUT/report.html."""
    failures = list(scan_files.read_failures(output))
    ratio = between_to_within(result)
    write_page(
        output / "report.html",
        "preprocess.html",
        package="bjepa.preproc",
        atlas=atlas,
        options=options,
        scans=_rows(result.table),
        n_participants=result.table["participant_id"].nunique(),
        n_series=int(result.table["n_phases"].sum()),
        hours=float((result.table["n_frames_in"] * result.table["t_r"]).sum() / 3600),
        failures=failures,
        ratio=float(np.median(ratio)) if len(ratio) else None,
        incomplete=_rows(result.table[result.table["n_missing_rois"] > 0]),
        figure_atlas=_draw_atlas(atlas),
        figure_fc=_draw_mean_fc(result, atlas),
        figure_carpets=_draw_carpets(result, atlas),
        figure_scaling=_draw_scaling(result, atlas),
    )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    blank = table.astype(object).where(table.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in blank.to_dict("records")]


def between_to_within(result: GroupResult) -> NDArray[np.float64]:
    """Per region: variance of the scans' means over the mean variance within scans (scans that have it)."""
    means, variances = [], []
    for scan in result.scans:
        series = scan.series().astype(np.float64)
        means.append(series.mean(axis=0))
        variances.append(series.var(axis=0))
    if len(means) < 2:
        return np.array([])
    with np.errstate(invalid="ignore"):
        ratio = np.nanvar(np.array(means), axis=0) / np.nanmean(np.array(variances), axis=0)
    return np.asarray(ratio[np.isfinite(ratio)])


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _draw_atlas(atlas: Atlas) -> str:
    """The label volume in three planes; a left-right or orientation fault shows here."""
    import nibabel as nib

    plt = _pyplot()
    canonical = nib.as_closest_canonical(atlas.labels_img)
    labels = np.asarray(canonical.dataobj)
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
    shuffled = np.concatenate([[0], 1 + np.random.default_rng(0).permutation(atlas.n_rois)])
    for axis, (name, dimension, across, up) in enumerate(
        [("sagittal", 0, 1, 2), ("coronal", 1, 0, 2), ("axial", 2, 0, 1)]
    ):
        # the slice with most regions in it
        per_slice = (labels > 0).sum(axis=(across, up))
        middle = int(np.argmax(per_slice))
        plane = np.take(labels, middle, axis=dimension)
        plane = np.ma.masked_equal(shuffled[plane], 0)
        step = np.linalg.norm(canonical.affine[:3, :3], axis=0)
        origin = canonical.affine[:3, 3]
        extent = [
            origin[across],
            origin[across] + step[across] * labels.shape[across],
            origin[up],
            origin[up] + step[up] * labels.shape[up],
        ]
        axes[axis].imshow(
            plane.T, origin="lower", extent=extent, cmap="nipy_spectral", interpolation="nearest"
        )
        place = origin[dimension] + step[dimension] * middle
        axes[axis].set_title(f"{name}, {'xyz'[dimension]} = {place:.0f} mm", fontsize=9)
        axes[axis].set_xlabel(
            f"{'xyz'[across]} (mm)" + (", left − / right +" if across == 0 else ""), fontsize=8
        )
        axes[axis].set_ylabel(f"{'xyz'[up]} (mm)", fontsize=8)
        axes[axis].tick_params(labelsize=7)
    figure.tight_layout()
    return figure_uri(figure)


def _draw_mean_fc(result: GroupResult, atlas: Atlas) -> str:
    """Mean correlation matrix over (at most 200) scans, regions grouped by network."""
    plt = _pyplot()
    total, seen = np.zeros((atlas.n_rois, atlas.n_rois)), np.zeros((atlas.n_rois, atlas.n_rois))
    for scan in result.scans[:200]:
        series = scan.series().astype(np.float64)
        present = np.isfinite(series).all(axis=0)
        block = np.ix_(present, present)
        total[block] += np.corrcoef(series[:, present], rowvar=False)
        seen[block] += 1
    with np.errstate(invalid="ignore"):
        mean = total / seen
    networks = atlas.table["network7"].to_numpy()
    order = np.argsort(networks, kind="stable")
    figure, axis = plt.subplots(figsize=(5.6, 4.8))
    image = axis.imshow(mean[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    names, starts = np.unique(networks[order], return_index=True)
    for start in starts[1:]:
        axis.axhline(start - 0.5, color="black", lw=0.4)
        axis.axvline(start - 0.5, color="black", lw=0.4)
    middles = (starts + np.append(starts[1:], len(order))) / 2
    axis.set_yticks(middles, names, fontsize=7)
    axis.set_xticks([])
    figure.colorbar(image, ax=axis, shrink=0.8).set_label("Pearson r", fontsize=8)
    return figure_uri(figure)


def _draw_carpets(result: GroupResult, atlas: Atlas) -> str:
    """Standardised series of the first scans: dark or bright columns are motion, blank rows dead regions."""
    plt = _pyplot()
    scans = result.scans[:_N_PICTURED]
    figure, axes = plt.subplots(
        len(scans), 1, figsize=(9, 0.5 + 1.5 * len(scans)), squeeze=False, layout="constrained"
    )
    for axis, scan in zip(axes[:, 0], scans, strict=True):
        series = scan.series()  # (n_frames, n_rois)
        shown = (series - series.mean(axis=0)) / series.std(axis=0)
        extent = [0, len(series) * scan.facts["t_r"], atlas.n_rois, 0]
        image = axis.imshow(shown.T, aspect="auto", cmap="gray", vmin=-2, vmax=2, extent=extent)
        axis.set_title(scan.facts["scan_id"], fontsize=8, loc="left")
        axis.set_ylabel("region", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[-1, 0].set_xlabel("time (s)", fontsize=8)
    figure.colorbar(image, ax=axes[:, 0], shrink=0.7).set_label("SD of the region", fontsize=8)
    return figure_uri(figure)


def _draw_scaling(result: GroupResult, atlas: Atlas) -> str:
    """Median and IQR of every region in column order."""
    plt = _pyplot()
    figure, axes = plt.subplots(2, 1, figsize=(9, 3.6), sharex=True, layout="constrained")
    colour = np.where(atlas.table["structure"] == "subcortex", "#b5651d", "#1f5fa8")
    index = atlas.table["index"]
    for axis, values, name in zip(
        axes, (result.scaling.median, result.scaling.iqr), ("median", "IQR"), strict=True
    ):
        axis.scatter(index, values, s=4, c=colour)
        axis.set_ylabel(f"{name}\n(scan units)", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[1].set_xlabel("region (column of the series); brown = subcortex", fontsize=8)
    return figure_uri(figure)
