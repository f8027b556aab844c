"""What `bjepa-evaluate` does, one function a command; parsing and exit statuses are in cli/evaluate.py.

A model comes with its source (a path, a name on the hub): what a report calls it, and what tells results of
several models apart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bjepa.model.baselines.methods import check_methods, default_methods
from bjepa.model.evaluation.embedding_file import Embeddings, embed_scans, model_sha256, write_embeddings
from bjepa.model.evaluation.evaluate import Protocol, baseline_methods, evaluate, prepare
from bjepa.model.evaluation.fold import Method
from bjepa.model.evaluation.model_methods import finetune_of, probe_of, readout_of, result_names
from bjepa.model.evaluation.outputs import write_evaluation
from bjepa.model.evaluation.pretrained_on import count_pretrained_on
from bjepa.model.evaluation.protocol import MethodResult
from bjepa.model.evaluation.roles import untrained_as
from bjepa.model.evaluation.scan_data import ScanData, load_scan_data
from bjepa.model.readouts.pooling import Pooling
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

if TYPE_CHECKING:
    from bjepa.model import JEPA

log = logging.getLogger(__name__)


def run_embed(
    model: JEPA,
    data: Path,
    output: Path,
    *,
    pooling: Pooling = "mean",
    batch_size: int = 8,
    device: str | None = None,
) -> Embeddings:
    """Embed every scan of a folder of shards and write the embedding file."""
    if output.suffix not in (".h5", ".hdf5"):
        raise InputError(f"--output must name an .h5 file, got {output}.", hint="For example embedding.h5.")
    embeddings = embed_scans(model, ShardReader(data), pooling=pooling, batch_size=batch_size, device=device)
    write_embeddings(output, embeddings)
    log.info("wrote %s: %d scans, %d features", output, *embeddings.embedding.shape)
    return embeddings


def run_probe(
    source: str,
    model: JEPA,
    data: Path,
    protocol: Protocol,
    output: Path,
    *,
    methods: Sequence[str] = (),
    pooling: Pooling = "mean",
    head: str = "linear",
    batch_size: int = 8,
    command: Sequence[str] = (),
) -> list[MethodResult]:
    """Read the frozen model out, and the baselines `methods` beside it under the same splits."""
    made = probe_of(model, pooling=pooling, head=head, batch_size=batch_size, device=protocol.device)
    return _run(
        "probe",
        source,
        model,
        {made.name: made.method},
        data,
        protocol,
        output,
        methods,
        command,
        made.embeddings,
    )


def run_finetune(
    source: str,
    model: JEPA,
    data: Path,
    protocol: Protocol,
    output: Path,
    *,
    methods: Sequence[str] = (),
    pooling: Pooling = "mean",
    settings: Mapping[str, Any] | None = None,
    layer_decay: float = 0.75,
    lora_rank: int | None = None,
    n_seeds: int = 1,
    command: Sequence[str] = (),
) -> list[MethodResult]:
    """Train a copy of the model on to the target, and the baselines `methods` under the same splits."""
    method = finetune_of(
        model,
        settings=settings or {},
        pooling=pooling,
        layer_decay=layer_decay,
        lora_rank=lora_rank,
        n_seeds=n_seeds,
    )
    name = "finetune" if lora_rank is None else "lora"
    return _run("finetune", source, model, {name: method}, data, protocol, output, methods, command)


def run_baselines(
    data: Path,
    protocol: Protocol,
    output: Path,
    *,
    methods: Sequence[str] | None = None,
    learning_curves: bool = False,
    command: Sequence[str] = (),
) -> list[MethodResult]:
    """Baselines under one set of splits; None takes the quick ones that suit the task and the data."""
    scans = load_scan_data(data)
    prepared = prepare(scans, protocol)
    names = default_methods(prepared[0].task, scans) if methods is None else list(methods)
    check_methods(names, prepared[0].task)
    done = evaluate(scans, baseline_methods(names, scans), protocol, prepared=prepared)
    write_evaluation(output, done, models={}, command=command, learning_curves=learning_curves)
    return done.results


def run_compare(
    models: Mapping[str, JEPA],
    data: Path,
    protocol: Protocol,
    output: Path,
    *,
    readouts: Sequence[str] = ("probe",),
    methods: Sequence[str] | None = None,
    learning_curves: bool = False,
    batch_size: int = 8,
    command: Sequence[str] = (),
) -> list[MethodResult]:
    """Models by several readouts, baselines and controls, on one page."""
    scans = load_scan_data(data)
    _need_series(scans, "compare")
    prepared = prepare(scans, protocol)
    task = prepared[0].task
    if methods is None:
        untrained = dict.fromkeys(untrained_as(readout) for readout in readouts)
        methods = [*default_methods(task, scans), *untrained]
    names = list(methods)
    check_methods(names, task)
    like = next(iter(models.values())) if len(models) == 1 else None
    of_models: dict[str, Method] = {}
    origin: dict[str, str] = {}  # result -> model
    short = result_names(list(models))
    for name, model in models.items():
        for readout in readouts:
            result = readout if len(models) == 1 else f"{readout}:{short[name]}"
            of_models[result] = readout_of(readout, model, batch_size=batch_size, device=protocol.device)
            origin[result] = name
    done = evaluate(
        scans, {**of_models, **baseline_methods(names, scans, like=like)}, protocol, prepared=prepared
    )
    write_evaluation(
        output,
        done,
        models={name: _facts(model) for name, model in models.items()},
        of_models=list(of_models),
        pretrained_on={
            result: count_pretrained_on(Path(name), scans, done.cohort.participant_id)
            for result, name in origin.items()
        },
        learning_curves=learning_curves,
        command=command,
    )
    return done.results


def _run(
    command_name: str,
    source: str,
    model: JEPA,
    of_model: dict[str, Method],
    data: Path,
    protocol: Protocol,
    output: Path,
    methods: Sequence[str],
    command: Sequence[str],
    embeddings: Any = None,
) -> list[MethodResult]:
    """One model by one readout, with baselines beside it. `embeddings`: from the shards, to be kept."""
    scans = load_scan_data(data)
    reader = _need_series(scans, command_name)
    prepared = prepare(scans, protocol)
    check_methods(methods, prepared[0].task)
    baselines = baseline_methods(methods, scans, like=model)
    if embeddings is not None:
        write_embeddings(output / "embedding.h5", embeddings(reader))
    done = evaluate(scans, {**of_model, **baselines}, protocol, prepared=prepared)
    write_evaluation(
        output,
        done,
        models={source: _facts(model)},
        of_models=list(of_model),
        pretrained_on={
            name: count_pretrained_on(Path(source), scans, done.cohort.participant_id) for name in of_model
        },
        command=command,
    )
    return done.results


def _facts(model: JEPA) -> dict[str, Any]:
    return {"model_sha256": model_sha256(model), "n_frames": int(model.config.n_frames)}


def _need_series(scans: ScanData, command: str) -> ShardReader:
    if scans.reader is None:
        raise InputError(
            f"{command} needs series; {scans.source} holds connectivity only.",
            hint="Give an output folder of bjepa-preprocess, or use baselines.",
        )
    return scans.reader
