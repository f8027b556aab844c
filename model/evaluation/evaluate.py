"""The commands' work: a cohort, splits, features of every method, one protocol, the files of the contract.

    scores.tsv summary.tsv predictions.tsv splits.tsv report.html run.json   (probe: embedding.h5 too)
The tables depend on data, target, splits and seed alone: the same command writes the same bytes.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import bjepa
from bjepa.model.baselines.methods import METHODS, check_methods, methods_for
from bjepa.model.evaluation.cohort import Cohort, load_cohort
from bjepa.model.evaluation.embedding_file import Embeddings, embed_scans, write_embeddings
from bjepa.model.evaluation.metrics import LABELS, MAIN_METRIC
from bjepa.model.evaluation.protocol import MethodResult, evaluate_method, table_rows
from bjepa.model.evaluation.report import PROBE, findings, format_estimate, write_report
from bjepa.model.evaluation.scan_data import ScanData, average_by_participant, load_scan_data
from bjepa.model.evaluation.splits import Splits, make_splits, read_splits, write_splits
from bjepa.model.run_folder import describe_software
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_file, write_json, write_text
from bjepa.preproc.shards import ShardReader

if TYPE_CHECKING:
    from bjepa.model import JEPA

log = logging.getLogger(__name__)
PROBE_SUMMARY = "mean of the target encoder's tokens, frozen; ridge or logistic regression"
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "h5py")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What all methods of one evaluation share: the options of `probe` and `baselines`."""

    participants: Path
    target: str
    task: str = "auto"
    group: str = "participant_id"
    n_splits: int = 5
    seed: int = 0
    splits: Path | None = None  # splits.tsv of an earlier evaluation, in place of n_splits and seed


def run_embed(
    model: JEPA, data: Path, output: Path, *, batch_size: int = 8, device: str | None = None
) -> Embeddings:
    """Embed every scan of a folder of shards and write the embedding file."""
    if output.suffix not in (".h5", ".hdf5"):
        raise InputError(f"--output must name an .h5 file, got {output}.", hint="For example embedding.h5.")
    embeddings = embed_scans(model, ShardReader(data), batch_size=batch_size, device=device)
    write_embeddings(output, embeddings)
    log.info("wrote %s: %d scans, %d features", output, *embeddings.embedding.shape)
    return embeddings


def run_probe(
    model: JEPA,
    data: Path,
    protocol: Protocol,
    output: Path,
    *,
    methods: Sequence[str] = (),
    batch_size: int = 8,
    device: str | None = None,
    command: Sequence[str] = (),
) -> list[MethodResult]:
    """Linear probe of the frozen embedding, and the baselines `methods` beside it under the same splits."""
    started = time.perf_counter()
    scans = load_scan_data(data)
    if scans.reader is None:
        raise InputError(
            f"probe needs series; {data} holds connectivity only.",
            hint="Give an output folder of bjepa-preprocess, or use baselines.",
        )
    cohort, splits = _prepare(scans, protocol)
    check_methods(methods, cohort.task)
    embeddings = embed_scans(model, scans.reader, batch_size=batch_size, device=device)
    write_embeddings(output / "embedding.h5", embeddings)

    features: dict[str, Callable[[ScanData], NDArray[np.float32]]] = {PROBE: lambda _: embeddings.embedding}
    features |= {name: METHODS[name].features for name in methods}
    results = _evaluate(features, scans, cohort, splits)
    origin = {"model_sha256": embeddings.model_sha256, "n_frames": embeddings.n_frames}
    _write(output, results, scans, cohort, splits, protocol, origin, command, started)
    return results


def run_baselines(
    data: Path,
    protocol: Protocol,
    output: Path,
    *,
    methods: Sequence[str] | None = None,
    command: Sequence[str] = (),
) -> list[MethodResult]:
    """Baselines under one set of splits; None takes all that suit the task and the data."""
    started = time.perf_counter()
    scans = load_scan_data(data)
    cohort, splits = _prepare(scans, protocol)
    names = methods_for(cohort.task, scans) if methods is None else list(methods)
    check_methods(names, cohort.task)
    results = _evaluate({name: METHODS[name].features for name in names}, scans, cohort, splits)
    _write(output, results, scans, cohort, splits, protocol, {}, command, started)
    return results


def _prepare(scans: ScanData, protocol: Protocol) -> tuple[Cohort, Splits]:
    cohort = load_cohort(
        protocol.participants,
        target=protocol.target,
        with_scan=set(scans.participant_id),
        task=protocol.task,
        group=protocol.group,
    )
    if protocol.splits is not None:
        splits = read_splits(protocol.splits, cohort)
    else:
        splits = make_splits(cohort, n_splits=protocol.n_splits, seed=protocol.seed)
    log.info("%d participants, %d folds, splits %s", len(cohort.target), splits.n_splits, splits.sha256[:12])
    return cohort, splits


def _evaluate(
    features: dict[str, Callable[[ScanData], NDArray[np.float32]]],
    scans: ScanData,
    cohort: Cohort,
    splits: Splits,
) -> list[MethodResult]:
    metric = MAIN_METRIC[cohort.task]
    results = []
    for name, of_scans in features.items():
        averaged = average_by_participant(of_scans(scans), scans.participant_id, cohort.participant_id)
        results.append(evaluate_method(name, averaged, cohort, splits))
        log.info("%s: %s %s", name, LABELS[metric], format_estimate(results[-1].estimates[metric]))
    return results


def _write(
    output: Path,
    results: list[MethodResult],
    scans: ScanData,
    cohort: Cohort,
    splits: Splits,
    protocol: Protocol,
    origin: dict[str, Any],
    command: Sequence[str],
    started: float,
) -> None:
    for name, rows in table_rows(results, cohort, splits).items():
        write_text(output / f"{name}.tsv", _as_tsv(rows))
    write_splits(output / "splits.tsv", splits, cohort)
    for finding in findings(results, cohort, splits):
        log.log(logging.WARNING if finding.warning else logging.INFO, finding.text)

    summaries = {PROBE: PROBE_SUMMARY} | {name: method.summary for name, method in METHODS.items()}
    seed = None if protocol.splits is not None else protocol.seed  # read splits were not drawn with it
    facts = {
        "data": str(scans.source),
        "participants": str(protocol.participants),
        "grouped by": protocol.group,
        "seed of the splits": "read from a file" if seed is None else str(seed),
        "hash of the splits": splits.sha256,
    }
    facts |= {name.replace("_", " "): str(value) for name, value in origin.items()}
    write_report(output / "report.html", results, cohort, splits, summaries=summaries, facts=facts)
    write_json(
        output / "run.json",
        {
            "bjepa_version": bjepa.__version__,
            **describe_software(PACKAGES),
            "command": list(command),
            "data": {"path": str(scans.source), "sha256": scans.sha256, "atlas_sha256": scans.atlas_sha256},
            "participants": {
                "path": str(protocol.participants),
                "sha256": sha256_of_file(protocol.participants),
                "n": len(cohort.participant_id),
            },
            "model": origin or None,
            "target": cohort.target_name,
            "task": cohort.task,
            "classes": cohort.classes,
            "group": protocol.group,
            "seed": seed,
            "n_splits": splits.n_splits,
            "splits_sha256": splits.sha256,
            "interval": "95 %, corrected resampled t (Nadeau & Bengio 2003) over splits",
            "methods": {
                r.name: {"n_features": r.n_features, "penalty_per_feature": r.penalties} for r in results
            },
            "wall_time_s": round(time.perf_counter() - started, 3),
            "platform": sys.platform,
        },
    )


def _as_tsv(rows: Sequence[Sequence[Any]]) -> str:
    return "\n".join("\t".join(_cell(value) for value in row) for row in rows) + "\n"


def _cell(value: Any) -> str:
    """Six significant digits, so that rounding in the last bits of a sum does not show; NaN is n/a (BIDS)."""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}" if math.isfinite(value) else "n/a"
    return str(value)
