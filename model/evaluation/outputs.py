"""What an evaluation leaves behind: the tables of the contract, the page, and run.json.

The tables have six significant digits, so that rounding in the last bits of a sum does not show.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bjepa
from bjepa.model.evaluation.comparison import compare, comparison_tables
from bjepa.model.evaluation.evaluate import Evaluation, Protocol
from bjepa.model.evaluation.findings import find
from bjepa.model.evaluation.learning_curve import CurvePoint, learning_curve
from bjepa.model.evaluation.protocol import table_rows
from bjepa.model.evaluation.quotable import quotable
from bjepa.model.evaluation.report import write_report
from bjepa.model.evaluation.roles import CONFOUNDS
from bjepa.model.evaluation.splits import write_splits
from bjepa.model.evaluation.wording import as_tsv
from bjepa.model.run_folder import describe_software
from bjepa.preproc.files import sha256_of_file, write_json, write_text

log = logging.getLogger(__name__)
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "h5py")


def write_evaluation(
    output: Path,
    done: Evaluation,
    *,
    models: Mapping[str, dict[str, Any]],
    of_models: Sequence[str] = (),
    pretrained_on: Mapping[str, int | None] | None = None,
    learning_curves: bool = False,
    command: Sequence[str],
) -> None:
    """Write all files of an evaluation but the embeddings.

    `models`: facts of each model, by its name; `of_models`: results that are of models; `pretrained_on`: how
    many of the participants each of these was pretrained on; `learning_curves`: of all that train no network.
    """
    results, cohort, splits, protocol = done.results, done.cohort, done.splits, done.protocol
    comparison = compare(
        results,
        cohort,
        splits,
        models=of_models,
        summaries=done.summaries,
        confounds=protocol.confounds,
        grouped_by=protocol.group,
        n_permutations=protocol.n_permutations,
        curves=_learning_curves(done) if learning_curves else None,
        pretrained_on=pretrained_on,
        not_adjusted=done.not_adjusted,
        seed=protocol.seed,
    )
    tables = dict(table_rows(results, cohort, splits)) | comparison_tables(comparison)
    for name, rows in tables.items():
        write_text(output / f"{name}.tsv", as_tsv(rows))
    write_splits(output / "splits.tsv", splits, cohort)
    for finding in find(comparison):
        log.log(logging.WARNING if finding.warning else logging.INFO, finding.text)
    write_report(output, comparison, facts=_facts(done, models))
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
            "sentence": quotable(comparison),
            "wall_time_s": round(time.perf_counter() - done.started, 3),
            "platform": sys.platform,
        },
    )


def _learning_curves(done: Evaluation) -> dict[str, list[CurvePoint]]:
    """Of the quick methods; a network would be trained anew for each point of each split."""
    return {
        name: learning_curve(
            method,
            done.inputs[name],
            done.cohort,
            done.splits,
            seed=done.protocol.seed,
            device=done.protocol.device,
        )
        for name, method in done.methods.items()
        if name != CONFOUNDS and not method.trains_network
    }


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


def _facts(done: Evaluation, models: Mapping[str, dict[str, Any]]) -> dict[str, str]:
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
