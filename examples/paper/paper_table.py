"""The table of a recipe, laid out as the paper's: a row a method, a column a target and metric.

Under a row of ours stands what the paper printed for its like, as it is printed there, and in which table.
"""

from collections.abc import Sequence
from typing import Any

PAPER = "Dong et al. 2024, Brain-JEPA, arXiv:2409.19407"
METRICS = {  # as a column is headed; where "%", shares are printed times 100, as the paper does
    "mse_z": "MSE, standardised ↓",
    "mse": "MSE ↓",
    "mae": "MAE ↓",
    "r2": "R² ↑",
    "r": "r (Pearson) ↑",
    "spearman": "Spearman ↑",
    "accuracy": "ACC (%) ↑",
    "f1": "F1 (%) ↑",
    "balanced_accuracy": "balanced ACC (%) ↑",
    "auc": "AUC ↑",
}


def markdown(
    recipe: dict[str, Any], columns: list[dict[str, Any]], cells: dict[tuple[str, str], dict[str, Any]]
) -> str:
    """The table: a line a row, mean [95 %], and under it what was published, as it is printed there."""
    heads = [(c["target"], m) for c in columns for m in c["metrics"]]
    label_of = {c["target"]: c.get("label", c["target"]) for c in columns}
    lines = [f"# {recipe['title']}", "", f"As in the paper: {recipe['paper']}.", ""]
    if "note" in recipe:
        lines += [recipe["note"], ""]
    lines.append(_line("", [f"{label_of[target]}, {METRICS[metric]}" for target, metric in heads]))
    lines.append("|---" * (len(heads) + 1) + "|")
    for row in recipe["row"]:
        own = [_estimate(cells[row["label"], target].get(metric), metric) for target, metric in heads]
        lines.append(_line(row["label"], own))
        lines += _published_lines(recipe, row["label"], heads)
    lines += _published_lines(recipe, None, heads)
    sizes = {c["target"]: cells[recipe["row"][0]["label"], c["target"]]["n"] for c in columns}
    told = ", ".join(f"{target} n = {n}" for target, n in sizes.items())
    lines += [
        "",
        f"Mean over splits [95 % interval, corrected resampled t]; {told}. Same splits in all rows.",
    ]
    if recipe.get("published"):
        lines.append(f"*Published*, other people and other scans: {PAPER}, mean (SD of five runs).")
    else:
        lines.append("The paper prints no figures of these rows: see its plots.")
    return "\n".join(lines) + "\n"


def _line(label: str, values: Sequence[str]) -> str:
    return f"| {' | '.join([label, *values])} |"


def _published_lines(recipe: dict[str, Any], row: str | None, heads: list[tuple[str, str]]) -> list[str]:
    lines = []
    for entry in recipe.get("published", []):
        values = [entry["figures"].get(target, {}).get(metric, "") for target, metric in heads]
        if entry.get("row") == row and any(values):
            name = f"{entry['label']}, " if "label" in entry else ""
            lines.append(_line(f"*published: {name}{entry['source']}*", values))
    return lines


def tsv(
    recipe: dict[str, Any], columns: list[dict[str, Any]], cells: dict[tuple[str, str], dict[str, Any]]
) -> str:
    """One line a cell: row, target, metric, mean, ci_low, ci_high, n_splits, published: value [source]; …"""
    lines = ["row\ttarget\tmetric\tmean\tci_low\tci_high\tn_splits\tpublished"]
    for row in recipe["row"]:
        for column in columns:
            for metric in column["metrics"]:
                found = cells[row["label"], column["target"]].get(metric)
                values = (
                    [found[k] for k in ("mean", "ci_low", "ci_high", "n_splits")] if found else ["n/a"] * 4
                )
                known = _published(recipe, row["label"], column["target"], metric) or "n/a"
                lines.append("\t".join([row["label"], column["target"], metric, *values, known]))
    return "\n".join(lines) + "\n"


def _estimate(found: dict[str, str] | None, metric: str) -> str:
    if found is None or found["mean"] == "n/a":
        return "–"
    percent = "%" in METRICS[metric]
    values = (float(found[k]) * (100 if percent else 1) for k in ("mean", "ci_low", "ci_high"))
    mean, low, high = (f"{value:.{1 if percent else 3}f}" for value in values)
    return f"{mean} [{low}, {high}]"


def _published(recipe: dict[str, Any], row: str, target: str, metric: str) -> str:
    found = [
        (entry["figures"].get(target, {}).get(metric), entry["source"])
        for entry in recipe.get("published", [])
        if entry.get("row") == row
    ]
    return "; ".join(f"{value} [{source}]" for value, source in found if value)
