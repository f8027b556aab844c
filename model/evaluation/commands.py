"""What `bjepa-evaluate` does, one function a command; parsing and exit statuses are in cli/evaluate.py."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bjepa.model.baselines.linear import fit_linear
from bjepa.model.baselines.methods import check_methods, default_methods
from bjepa.model.evaluation.embedding_file import Embeddings, embed_scans, write_embeddings
from bjepa.model.evaluation.evaluate import Protocol, baseline_methods, evaluate, prepare
from bjepa.model.evaluation.fold import Method
from bjepa.model.evaluation.outputs import write_evaluation
from bjepa.model.evaluation.protocol import MethodResult
from bjepa.model.evaluation.report import PROBE
from bjepa.model.evaluation.scan_data import ScanData, load_scan_data, participant_features
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

if TYPE_CHECKING:
    from bjepa.model import JEPA

log = logging.getLogger(__name__)
PROBE_SUMMARY = "mean of the target encoder's tokens, frozen; ridge or logistic regression"


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
    scans = load_scan_data(data)
    reader = _need_series(scans, "probe")
    prepared = prepare(scans, protocol)
    check_methods(methods, prepared[0].task)
    baselines = baseline_methods(methods, scans)
    embeddings = embed_scans(model, reader, batch_size=batch_size, device=device)
    write_embeddings(output / "embedding.h5", embeddings)
    probe = Method(
        summary=PROBE_SUMMARY,
        inputs=participant_features(lambda _: embeddings.embedding),
        fit_predict=fit_linear,
        needs_series=True,
    )
    done = evaluate(scans, {PROBE: probe, **baselines}, protocol, prepared=prepared)
    origin: dict[str, Any] = {"model_sha256": embeddings.model_sha256, "n_frames": embeddings.n_frames}
    write_evaluation(output, done, models={PROBE: origin}, command=command)
    return done.results


def run_baselines(
    data: Path,
    protocol: Protocol,
    output: Path,
    *,
    methods: Sequence[str] | None = None,
    command: Sequence[str] = (),
) -> list[MethodResult]:
    """Baselines under one set of splits; None takes the quick ones that suit the task and the data."""
    scans = load_scan_data(data)
    prepared = prepare(scans, protocol)
    names = default_methods(prepared[0].task, scans) if methods is None else list(methods)
    check_methods(names, prepared[0].task)
    done = evaluate(scans, baseline_methods(names, scans), protocol, prepared=prepared)
    write_evaluation(output, done, models={}, command=command)
    return done.results


def _need_series(scans: ScanData, command: str) -> ShardReader:
    if scans.reader is None:
        raise InputError(
            f"{command} needs series; {scans.source} holds connectivity only.",
            hint="Give an output folder of bjepa-preprocess, or use baselines.",
        )
    return scans.reader
