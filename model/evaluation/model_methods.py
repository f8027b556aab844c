"""The methods that read a given model out: what `probe`, `finetune` and `--readouts` of `compare` name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bjepa.model.baselines.linear import fit_linear
from bjepa.model.evaluation.embedding_file import Embeddings, embed_scans
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.evaluation.scan_data import ScanData, participant_features
from bjepa.model.readouts.finetuning import FINETUNE, finetune_method
from bjepa.model.readouts.pooling import POOLINGS, Pooling
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ShardReader

if TYPE_CHECKING:
    from bjepa.model import JEPA

LORA_RANK = 8
NAMES = ("probe", *(f"probe-{pooling}" for pooling in POOLINGS), "released-probe", "attentive-probe")
NAMES += ("finetune", "lora")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe by its name; `embeddings` of the scans that it reads, where it reads such."""

    name: str
    method: Method
    embeddings: Callable[[ShardReader], Embeddings] | None


def readout_of(name: str, model: JEPA, *, batch_size: int, device: str) -> Method:
    """The method that a name of NAMES stands for (InputError: another name)."""
    if name not in NAMES:
        raise InputError(f"--readouts: {name!r} is no readout.", hint=f"There are {', '.join(NAMES)}.")
    if name == "finetune":
        return finetune_of(model)
    if name == "lora":
        return finetune_of(model, lora_rank=LORA_RANK)
    head = name.removesuffix("-probe") if name.endswith("-probe") else "linear"
    pooling: Any = name.removeprefix("probe-") if name.startswith("probe-") else "mean"
    return probe_of(model, pooling=pooling, head=head, batch_size=batch_size, device=device).method


def probe_of(model: JEPA, *, pooling: Pooling, head: str, batch_size: int, device: str) -> Probe:
    """A readout of the frozen model: `head` is linear, released or attentive."""
    if head == "attentive":
        from bjepa.model.readouts.attentive_probe import attentive_probe_method

        if pooling != "mean":
            raise InputError(
                f"--pooling {pooling} was given with --head attentive, which would ignore it.",
                hint="The attentive probe pools the tokens itself.",
            )
        return Probe(name="attentive-probe", method=attentive_probe_method(model), embeddings=None)

    @cache
    def embeddings(reader: ShardReader) -> Embeddings:
        return embed_scans(model, reader, pooling=pooling, batch_size=batch_size, device=device)

    def of_scans(data: ScanData) -> Any:
        assert data.reader is not None
        return embeddings(data.reader).embedding

    if head == "released":
        from bjepa.model.readouts.released_probe import fit_released_probe

        name, how = "released-probe", "batch norm and a linear layer, LARS"
        fit: Callable[[Fold], Prediction] = fit_released_probe
    else:
        name, fit, how = "probe", fit_linear, "ridge or logistic regression"
    method = Method(
        summary=f"the frozen model, {pooling.replace('_', ' ')} of the target encoder's tokens; {how}",
        inputs=participant_features(of_scans),
        fit_predict=fit,
        needs_series=True,
        trains_network=head == "released",
    )
    return Probe(name=name, method=method, embeddings=embeddings)


def finetune_of(
    model: JEPA,
    *,
    settings: Mapping[str, Any] | None = None,
    pooling: Pooling = "mean",
    layer_decay: float = 0.75,
    lora_rank: int | None = None,
    n_seeds: int = 1,
) -> Method:
    """Fine-tuning; `settings` replace those of FINETUNE. The warm-up is never longer than a tenth."""
    chosen = dict(settings or {})
    epochs = chosen.get("epochs", FINETUNE.epochs)
    chosen.setdefault("warmup_epochs", min(FINETUNE.warmup_epochs, epochs / 10))
    return finetune_method(
        model,
        settings=replace(FINETUNE, **chosen),
        layer_decay=layer_decay,
        lora_rank=lora_rank,
        n_seeds=n_seeds,
        pooling=pooling,
    )


def result_names(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model, all different: the last parts of its path that tell them apart."""
    parts = {name: [p for p in Path(name).parts if p not in ("/", "model")] or [name] for name in models}
    for n in range(1, max(map(len, parts.values())) + 1):
        short = {name: "/".join(own[-n:]) for name, own in parts.items()}
        if len(set(short.values())) == len(models):
            return short
    return {name: name for name in models}
