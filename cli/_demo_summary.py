"""What came out of the demo, held against what was planted: numbers, a table for people, a page."""

import csv
import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import bjepa
from bjepa.preproc.files import write_json

N_ALIGNED = 10  # components turned together: gradients 1 and 2 rotate freely, their eigenvalues are 8 % apart
REPORTS = {
    "Preprocessing": "shards/report.html",
    "Gradients": "gradients/report.html",
    "Training": "run/report.html",
    "Age by the embedding": "evaluation/age-probe/report.html",
    "Age by connectivity": "evaluation/age-baselines/report.html",
}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of a demo."""

    n_scans: int
    n_failed: int
    disk_mb: float
    seconds: float
    gradients_abs_r: list[float]  # component by component with the truth, after Procrustes over N_ALIGNED
    n_epochs: int
    loss_first_epoch: float
    loss_last_epoch: float
    age_r2_fc: float  # mean over folds, as summary.tsv has it
    age_r2_embedding: float
    age_r2_static_mean: float

    @property
    def checks(self) -> dict[str, bool]:
        """What must hold if every stage is right: 60 participants suffice, fewer may not."""
        return {
            "gradients 1-3 agree with the planted ones (|r| ≥ 0.95)": min(self.gradients_abs_r[:3]) >= 0.95,
            "connectivity predicts age (R² > 0.2)": self.age_r2_fc > 0.2,
            "regional means do not (R² < 0.1)": self.age_r2_static_mean < 0.1,
        }

    @property
    def verdict(self) -> str:
        """What the age predictions mean, in plain words."""
        if self.age_r2_embedding > self.age_r2_fc:
            told = "predicts age better than connectivity does: unexpected of so small a model, so check it"
        elif self.age_r2_embedding > 0.1:
            told = "carries some of the age effect, less than connectivity, as expected of so small a model"
        else:
            told = "does not predict age, and is not expected to"
        return (
            f"Age was planted in connectivity alone. The embedding of the tiny demo model {told}: it trained "
            "for a minute on a handful of scans, and a falling loss alone does not mean that something was "
            "learnt about people. Connectivity is the yardstick that a model has to beat."
        )


def summarise(folder: Path, *, seconds: float) -> Summary:
    """Read the outputs of all commands in a demo folder."""
    losses = _loss_by_epoch(folder / "run" / "metrics.jsonl")
    baselines = _mean_r2(folder / "evaluation" / "age-baselines" / "summary.tsv")
    return Summary(
        n_scans=len(_rows(folder / "shards" / "scans.tsv")),
        n_failed=len(_rows(folder / "shards" / "failures.tsv")),
        disk_mb=round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1),
        seconds=round(seconds, 1),
        gradients_abs_r=agreement_with_truth(folder),
        n_epochs=len(losses),
        loss_first_epoch=losses[0],
        loss_last_epoch=losses[-1],
        age_r2_fc=baselines["fc-ridge"],
        age_r2_embedding=_mean_r2(folder / "evaluation" / "age-probe" / "summary.tsv")["probe"],
        age_r2_static_mean=baselines["static-mean"],
    )


def agreement_with_truth(folder: Path) -> list[float]:
    """|r| of each of the first ten gradients with those of the planted connectivity, after Procrustes."""
    import numpy as np

    found, truth = _aligned_gradients(folder)
    return [round(abs(float(np.corrcoef(found[:, i], truth[:, i])[0, 1])), 4) for i in range(found.shape[1])]


def write_summary(folder: Path, summary: Summary, *, commands: list[str]) -> None:
    """Write summary.json and index.html into the demo folder."""
    from bjepa.preproc.html import figure_uri, write_page

    content = asdict(summary) | {
        "checks": summary.checks,
        "commands": commands,
        "reports": REPORTS,
        "bjepa_version": bjepa.__version__,
    }
    write_json(folder / "summary.json", content)
    write_page(
        folder / "index.html",
        "demo.html",
        package="bjepa.cli",
        summary=summary,
        commands=commands,
        reports=REPORTS,
        figure=figure_uri(_figure(folder, summary)),
    )


def print_summary(folder: Path, summary: Summary) -> None:
    """Print a table that a person understands."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="bjepa-demo", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    gradients = " ".join(f"{r:.3f}" for r in summary.gradients_abs_r[:3])
    for name, value in (
        ("scans", f"{summary.n_scans} done, {summary.n_failed} failed"),
        ("time, disk", f"{summary.seconds:.0f} s, {summary.disk_mb:.0f} MB"),
        ("gradients 1-3 and the planted ones", f"|r| {gradients}"),
        (
            f"training loss, epoch 1 → {summary.n_epochs}",
            f"{summary.loss_first_epoch:.4g} → {summary.loss_last_epoch:.4g}",
        ),
        ("age by connectivity", f"R² {summary.age_r2_fc:.2f}"),
        ("age by the embedding", f"R² {summary.age_r2_embedding:.2f}"),
        ("age by regional means (control)", f"R² {summary.age_r2_static_mean:.2f}"),
    ):
        table.add_row(name, value)
    console = Console(highlight=False)
    console.print()
    console.print(table)
    for check, holds in summary.checks.items():
        console.print(f"[green]✓[/] {check}" if holds else f"[red]✗[/] {check}")
    if not all(summary.checks.values()):
        console.print("A check marked ✗ may fail with fewer than 60 participants; with 60 it should hold.")
    console.print(f"\n{summary.verdict}\n")
    console.print(f"All reports: {folder / 'index.html'}", soft_wrap=True)


def _aligned_gradients(folder: Path) -> tuple[Any, Any]:
    """Found and planted gradients, (450, N_ALIGNED) each, the found ones turned towards the planted."""
    import h5py
    import numpy as np

    from bjepa.gradients import align_gradients, compute_affinity, diffusion_map, load_gradients

    with h5py.File(folder / "truth.h5") as file:
        planted_fc = file["fc"][:]
    np.fill_diagonal(planted_fc, 0.0)  # as functional_connectivity leaves it
    truth = diffusion_map(compute_affinity(np.arctanh(planted_fc)), n_components=N_ALIGNED).gradients
    found = load_gradients(folder / "gradients" / "gradients.csv").values[:, :N_ALIGNED]
    return align_gradients(found, truth), truth


def _figure(folder: Path, summary: Summary) -> Any:
    """Found against planted gradients 1 to 3, and age prediction by each method."""
    from matplotlib.figure import Figure

    found, truth = _aligned_gradients(folder)
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    for i, ax in enumerate(axes[:3]):
        ax.scatter(truth[:, i], found[:, i], s=5, color="#1f5fa8")
        ax.set(
            title=f"gradient {i + 1}: |r| = {summary.gradients_abs_r[i]:.3f}",
            xlabel="planted",
            ylabel="found",
        )
    names = ("connectivity", "embedding", "regional means")
    values = (summary.age_r2_fc, summary.age_r2_embedding, summary.age_r2_static_mean)
    axes[3].barh(names, values, color=("#1f5fa8", "#7fb4f0", "#9aa7b6"))
    axes[3].axvline(0, color="black", linewidth=0.8)
    axes[3].invert_yaxis()
    axes[3].set(title="age, R² out of sample", xlim=(min(-0.2, *values), 1))
    return figure


def _rows(table: Path) -> list[dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _mean_r2(table: Path) -> dict[str, float]:
    """Method to its mean R² over folds."""
    return {row["method"]: float(row["mean"]) for row in _rows(table) if row["metric"] == "r2"}


def _loss_by_epoch(metrics: Path) -> list[float]:
    """Mean loss over the steps of each epoch, in order."""
    losses: defaultdict[int, list[float]] = defaultdict(list)
    for line in metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "step" in record and "loss" in record:
            losses[record["epoch"]].append(record["loss"])
    return [fmean(losses[epoch]) for epoch in sorted(losses)]
