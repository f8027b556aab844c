"""The commands' work: a cohort, splits, methods under one protocol, the files of the contract.

    scores.tsv summary.tsv predictions.tsv splits.tsv report.html run.json   (with a model: embedding.h5 too)
The tables depend on data, target, splits and seed alone: the same command writes the same bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bjepa.model.baselines.linear import fit_linear
from bjepa.model.baselines.methods import LIKE_A_MODEL, METHODS
from bjepa.model.evaluation.cohort import Cohort, load_cohort
from bjepa.model.evaluation.confounds import design_matrix
from bjepa.model.evaluation.fold import Method
from bjepa.model.evaluation.metrics import LABELS, MAIN_METRIC
from bjepa.model.evaluation.permutation import permutation_test
from bjepa.model.evaluation.protocol import MethodResult, can_adjust, evaluate_method
from bjepa.model.evaluation.roles import ADJUSTED, CONFOUNDS
from bjepa.model.evaluation.scan_data import ScanData
from bjepa.model.evaluation.splits import Scheme, Split, Splits, make_splits, read_splits
from bjepa.model.evaluation.wording import format_estimate
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    from bjepa.model import JEPA

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What all methods of one evaluation share."""

    participants: Path
    target: str
    task: str = "auto"
    group: str = "participant_id"
    n_splits: int = 5
    seed: int = 0  # of the splits, the methods and the permutations
    scheme: Scheme = "k-fold"
    n_repeats: int = 1
    leave_out: str | None = None  # column; with scheme "leave-out"
    splits: Path | None = None  # splits.tsv of an earlier evaluation, in place of drawn ones
    confounds: tuple[str, ...] = ()
    n_permutations: int = 0
    device: str = "cpu"
    max_epochs: int | None = None  # of trained methods


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that came out, and what it was made of."""

    scans: ScanData
    cohort: Cohort
    splits: Splits
    protocol: Protocol
    results: list[MethodResult]
    summaries: dict[str, str]  # a line on each method
    not_adjusted: list[str]  # methods that confounds could not be regressed out of
    confounds: NDArray[np.float64] | None = None  # (n_participants, C)
    inputs: Mapping[str, Any] = field(default_factory=dict)  # of each method, for what is drawn later
    methods: Mapping[str, Method] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)


def prepare(scans: ScanData, protocol: Protocol) -> tuple[Cohort, Splits]:
    """Who is evaluated, and the splits; the same for every command with the same options."""
    columns = [*protocol.confounds, *([protocol.leave_out] if protocol.leave_out else [])]
    cohort = load_cohort(
        protocol.participants,
        target=protocol.target,
        with_scan=set(scans.participant_id),
        task=protocol.task,
        group=protocol.group,
        columns=columns,
        of_scans=scans.participant_values(),
    )
    if protocol.splits is not None:
        splits = read_splits(protocol.splits, cohort)
    else:
        splits = make_splits(
            cohort,
            n_splits=protocol.n_splits,
            seed=protocol.seed,
            scheme=protocol.scheme,
            n_repeats=protocol.n_repeats,
            leave_out=cohort.columns[protocol.leave_out] if protocol.leave_out else None,
        )
    log.info("%d participants, %s, splits %s", len(cohort.target), splits.description, splits.sha256[:12])
    return cohort, splits


def evaluate(
    scans: ScanData,
    methods: Mapping[str, Method],
    protocol: Protocol,
    *,
    prepared: tuple[Cohort, Splits] | None = None,
) -> Evaluation:
    """Run all methods under one protocol; with confounds, each once more adjusted, and the confounds alone.

    Raises InputError where cohort, splits or confounds are refused, or a method's inputs are not there.
    """
    started = time.perf_counter()
    cohort, splits = prepared or prepare(scans, protocol)
    design = design_matrix(cohort, protocol.confounds) if protocol.confounds else None
    if design is not None:
        methods = {**methods, CONFOUNDS: _confounds_alone(design, cohort)}
    results: list[MethodResult] = []
    not_adjusted = []
    summaries = {name: method.summary for name, method in methods.items()}
    all_inputs: dict[str, Any] = {}
    cache: dict[Any, Any] = {}  # methods that read the same share it
    for name, method in methods.items():
        if method.inputs not in cache:
            cache[method.inputs] = method.inputs(scans, cohort.participant_id)
        inputs = all_inputs[name] = cache[method.inputs]
        result = _run(name, method, inputs, cohort, splits, protocol)
        results.append(result)
        if design is None or name == CONFOUNDS:
            continue
        if can_adjust(inputs, cohort):
            results.append(_run(name + ADJUSTED, method, inputs, cohort, splits, protocol, design))
            summaries[name + ADJUSTED] = f"{name}, after the confounds were regressed out in each fold"
        else:
            not_adjusted.append(name)
            log.warning("%s reads series: confounds of a class cannot be regressed out of them.", name)
    return Evaluation(
        scans=scans,
        cohort=cohort,
        splits=splits,
        protocol=protocol,
        results=results,
        summaries=summaries,
        not_adjusted=not_adjusted,
        confounds=design,
        inputs=all_inputs,
        methods=methods,
        started=started,
    )


def _run(
    name: str,
    method: Method,
    inputs: Any,
    cohort: Cohort,
    splits: Splits,
    protocol: Protocol,
    confounds: NDArray[np.float64] | None = None,
) -> MethodResult:
    result = evaluate_method(
        name,
        method,
        inputs,
        cohort,
        splits,
        seed=protocol.seed,
        device=protocol.device,
        max_epochs=protocol.max_epochs,
        confounds=confounds,
        each=lambda some: _progress(some, name if method.trains_network else None),
    )
    if protocol.n_permutations and not method.trains_network:
        p_values = permutation_test(
            method,
            inputs,
            cohort,
            splits,
            n_permutations=protocol.n_permutations,
            seed=protocol.seed,
            device=protocol.device,
            confounds=confounds,
        )
        result = replace(result, p_values=p_values)
    metric = MAIN_METRIC[cohort.task]
    log.info("%s: %s %s", name, LABELS[metric], format_estimate(result.estimates[metric]))
    return result


def _progress(splits: Splits, name: str | None) -> Iterator[Split]:
    """The splits, with a bar where each takes a while and a terminal shows it."""
    from tqdm import tqdm

    off = True if name is None else None  # None: off where there is no terminal
    return iter(tqdm(splits, desc=name, unit="split", total=splits.n_splits, disable=off))


def _confounds_alone(design: NDArray[np.float64], cohort: Cohort) -> Method:
    """The control: what the confounds themselves predict, by the linear readout."""
    row_of = {participant: row for row, participant in enumerate(cohort.participant_id)}

    def inputs(_: ScanData, participants: Sequence[str]) -> NDArray[np.float32]:
        return design[[row_of[p] for p in participants]].astype(np.float32)

    return Method(
        summary="control: the confounds alone; ridge or logistic regression",
        inputs=inputs,
        fit_predict=fit_linear,
    )


def baseline_methods(names: Sequence[str], scans: ScanData, *, like: JEPA | None = None) -> dict[str, Method]:
    """Methods by name, refused where they need series and there are none (InputError).

    `like`: a model whose architecture and gradients `random-encoder` and `scratch` take.
    """
    for name in names:
        if METHODS[name].needs_series and scans.reader is None:
            raise InputError(
                f"{name} needs series; {scans.source} holds connectivity only.",
                hint=f"Give an output folder of bjepa-preprocess, or leave {name} out of --methods.",
            )
    shaped = {} if like is None else {name: make(like) for name, make in LIKE_A_MODEL.items()}
    return {name: shaped.get(name, METHODS[name]) for name in names}
