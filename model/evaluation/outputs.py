"""What an evaluation leaves behind: the tables of the contract, the page, and run.json.

The tables have six significant digits, so that rounding in the last bits of a sum does not show.
"""

import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bjepa
from bjepa.model.evaluation.evaluate import Evaluation, Protocol
from bjepa.model.evaluation.protocol import table_rows
from bjepa.model.evaluation.report import findings, write_report
from bjepa.model.evaluation.splits import write_splits
from bjepa.model.run_folder import describe_software
from bjepa.preproc.files import sha256_of_file, write_json, write_text

log = logging.getLogger(__name__)
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "h5py")


def write_evaluation(
    output: Path, done: Evaluation, *, models: dict[str, dict[str, Any]], command: Sequence[str]
) -> None:
    """Write all files of an evaluation but the embeddings. `models`: facts of each model, by name."""
    results, cohort, splits, protocol = done.results, done.cohort, done.splits, done.protocol
    for name, rows in table_rows(results, cohort, splits).items():
        write_text(output / f"{name}.tsv", as_tsv(rows))
    write_splits(output / "splits.tsv", splits, cohort)
    for finding in findings(results, cohort, splits):
        log.log(logging.WARNING if finding.warning else logging.INFO, finding.text)
    write_report(
        output / "report.html",
        results,
        cohort,
        splits,
        summaries=done.summaries,
        facts=_facts(done, models),
    )
    write_json(
        output / "run.json",
        {
            "bjepa_version": bjepa.__version__,
            **describe_software(PACKAGES),
            "command": list(command),
            "data": {
                "path": str(done.scans.source),
                "sha256": done.scans.sha256,
                "atlas_sha256": done.scans.atlas_sha256,
            },
            "participants": {
                "path": str(protocol.participants),
                "sha256": sha256_of_file(protocol.participants),
                "n": len(cohort.participant_id),
            },
            "model": next(iter(models.values())) if len(models) == 1 else models or None,
            "target": cohort.target_name,
            "task": cohort.task,
            "classes": cohort.classes,
            "group": protocol.group,
            "scheme": _scheme(protocol),
            "seed": protocol.seed,
            "n_splits": splits.n_splits,
            "splits_sha256": splits.sha256,
            "interval": "95 %, corrected resampled t (Nadeau & Bengio 2003) over splits",
            "n_permutations": protocol.n_permutations,
            "confounds": list(protocol.confounds),
            "not_adjusted": done.not_adjusted,
            "methods": {r.name: columns(r.settings) for r in results},
            "wall_time_s": round(time.perf_counter() - done.started, 3),
            "platform": sys.platform,
        },
    )


def columns(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings of each split to one entry a name: the value where it is the same in all, else the list."""
    names = dict.fromkeys(name for one in settings for name in one)
    found: dict[str, Any] = {}
    for name in names:
        values = [one.get(name) for one in settings]
        found[name] = values[0] if all(value == values[0] for value in values) else values
    return found


def _scheme(protocol: Protocol) -> str:
    if protocol.splits is not None:
        return "read from a file"
    if protocol.leave_out is not None:
        return f"leave-out {protocol.leave_out}"
    return protocol.scheme


def _facts(done: Evaluation, models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The last table of the page: what was evaluated, in words."""
    protocol = done.protocol
    facts = {
        "data": str(done.scans.source),
        "participants": str(protocol.participants),
        "grouped by": protocol.group,
        "splits": done.splits.description,
        "seed": str(protocol.seed),
        "hash of the splits": done.splits.sha256,
    }
    if protocol.confounds:
        facts["confounds"] = ", ".join(protocol.confounds)
    for name, model in models.items():
        facts |= {f"{name}: {key.replace('_', ' ')}": str(value) for key, value in model.items()}
    return facts


def as_tsv(rows: Sequence[Sequence[Any]]) -> str:
    """A table as text, header first."""
    return "\n".join("\t".join(_cell(value) for value in row) for row in rows) + "\n"


def _cell(value: Any) -> str:
    """Six significant digits; NaN is n/a (BIDS)."""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}" if math.isfinite(value) else "n/a"
    return str(value)
