"""The files of an explanation: tables, pictures (PNG and SVG), report.html and run.json."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bjepa
from bjepa.gradients.figures.save import save_picture
from bjepa.gradients.figures.surfaces import SurfaceLabels, surface_labels
from bjepa.gradients.regions import regions_of_shards
from bjepa.model.evaluation.embedding_file import model_sha256
from bjepa.model.evaluation.scan_data import ScanData
from bjepa.model.explain.explanation import Explanation
from bjepa.model.explain.figures import (
    layers_figure,
    networks_figure,
    signed_surface_picture,
    surface_picture,
)
from bjepa.model.explain.findings import findings
from bjepa.model.explain.measures import Measure
from bjepa.model.explain.options import ExplainOptions
from bjepa.model.explain.report import Picture, write_report
from bjepa.model.explain.tables import networks_table, regions_table, sanity_table
from bjepa.model.jepa import JEPA
from bjepa.model.run_folder import describe_software
from bjepa.preproc.files import sha256_of_file, write_json, write_text

log = logging.getLogger(__name__)
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "h5py")


def write_explanation(
    output: Path,
    found: Explanation,
    model: JEPA,
    data: ScanData,
    *,
    table: Path | None,
    options: ExplainOptions,
    command: Sequence[str],
    wall_time: float,
) -> None:
    """Write everything into the folder `output`; `table`: the participants' file, `wall_time` in s."""
    reader = found.participants.reader
    maps = {measure.name: found.group_map(measure) for measure in found.measures}
    write_text(output / "regions.tsv", regions_table(reader.rois, maps))
    write_text(output / "networks.tsv", networks_table(found.networks))
    write_text(output / "sanity.tsv", sanity_table(found.sanity))
    for finding in findings(found):
        log.log(logging.WARNING if finding.warning else logging.INFO, finding.text)
    surface = surface_labels(regions_of_shards(reader, data.source))
    facts = _facts(found, model, data, table, options)
    write_report(output / "report.html", found, _pictures(output, found, surface), facts=facts)
    write_json(
        output / "run.json",
        _run(found, model, data, table, options)
        | {
            "command": list(command),
            "wall_time_s": round(wall_time, 3),
            "platform": sys.platform,
        },
    )


def shown_measures(found: Explanation) -> tuple[list[Measure], list[Measure]]:
    """Those that get a panel each: of attention (the last layer asked for, rollout), of attribution."""
    layers = [m for m in found.measures if m.layer is not None]
    attention = [layers[-1], *(m for m in found.measures if not m.is_attribution and m.layer is None)]
    return attention, [m for m in found.measures if m.is_attribution]


def _pictures(output: Path, found: Explanation, surface: SurfaceLabels | None) -> list[Picture]:
    pictures = []

    def add(section: str, name: str, figure: Any, caption: str) -> None:
        uri = save_picture(output, name, figure)
        if uri is not None:
            pictures.append(Picture(section, uri, caption, name))

    for section, measures in zip(("attention", "attribution"), shown_measures(found), strict=True):
        ratios = [m for m in measures if not m.is_signed]
        for scheme in found.schemes:
            name = f"{section}_{scheme.name}"
            caption = f"By {_scheme(scheme.name)}. Bars start at what is expected where nothing stands out "
            caption += "(dashed); line: 95 % interval of the mean over participants; a dot is a participant."
            add(section, name, networks_figure(found, scheme, measures) if measures else None, caption)
            if section == "attention":
                by_layer = f"Attention received by each network in every layer, by {_scheme(scheme.name)}."
                add(section, f"layers_{scheme.name}", layers_figure(found, scheme), by_layer)
        picture = surface_picture(found, surface, ratios) if surface is not None and ratios else None
        how = "" if surface is None else f"Cortex only. {surface.mesh}: {surface.how}."
        add(section, f"{section}_surface", picture, f"Mean over participants; red above 1, blue below. {how}")
        signed = [m for m in measures if m.is_signed]
        picture = signed_surface_picture(found, surface, signed) if surface is not None and signed else None
        says = "Mean over participants; red regions raise the output, blue ones lower it."
        add(section, f"{section}_signed_surface", picture, says)
    return pictures


def _scheme(name: str) -> str:
    return {"network7": "seven networks", "network17": "seventeen networks", "structure": "structure"}[name]


def _facts(
    found: Explanation, model: JEPA, data: ScanData, table: Path | None, options: ExplainOptions
) -> dict[str, str]:
    reader = found.participants.reader
    facts = {
        "data": str(data.source),
        "atlas": f"{reader.atlas} ({reader.n_rois} regions)",
        "model": f"target encoder, {model.config.depth} layers, {model.config.num_heads} heads, "
        f"{model.config.n_tokens} tokens of a window of {model.config.n_frames} frames",
        "hash of the model": model_sha256(model),
        "participants explained": str(len(found.participants)),
        "seed": str(options.seed),
    }
    if found.prediction is not None and found.completeness is not None:
        heads, completeness = found.prediction.heads, found.completeness
        facts |= {
            "participants' table": str(table),
            "heads": f"{len(heads.outputs)}, each explains the participants that it was not fitted to; "
            + "; ".join(
                f"{name.replace('_', ' ')} {_short(value)}" for name, value in heads.settings.items()
            ),
            "pooling": options.pooling,
            "hash of the splits": found.prediction.splits.sha256,
            "baseline": {
                "median": "0: each region at its median",
                "participants": "windows of other participants, drawn by the seed",
            }[options.resolved_baseline],
        }
        if "integrated-gradients" in options.attribution:
            facts["integrated gradients add up"] = (
                f"to the change of the output within {completeness.gap:.2g} {found.prediction.unit} (root "
                f"mean square; the change itself: {completeness.change:.2g}), with {options.n_steps} points"
            )
    if found.sanity:
        row = found.sanity[0]
        facts["sanity check"] = (
            f"{options.sanity}; {row.n_participants} participants (their first window), {row.n_draws} draws"
        )
    return facts


def _run(
    found: Explanation, model: JEPA, data: ScanData, table: Path | None, options: ExplainOptions
) -> dict[str, Any]:
    reader = found.participants.reader
    predicted = found.prediction
    prediction = None
    if predicted is not None and found.completeness is not None:
        prediction = {
            "target": predicted.cohort.target_name,
            "task": predicted.cohort.task,
            "class": predicted.target_class or None,
            "n_participants": len(predicted.cohort.participant_id),
            "splits_sha256": predicted.splits.sha256,
            "metric": predicted.heads.metric,
            "score": [_number(value) for value in predicted.heads.estimate],
            **predicted.heads.settings,
            "completeness": {name: _number(value) for name, value in asdict(found.completeness).items()},
        }
    packages = (*PACKAGES, "captum") if predicted is not None else PACKAGES
    return {
        "bjepa_version": bjepa.__version__,
        **describe_software(packages),
        "data": {
            "path": str(data.source),
            "sha256": data.sha256,
            "atlas_sha256": reader.atlas_sha256,
        },
        "participants": None if table is None else {"path": str(table), "sha256": sha256_of_file(table)},
        "explained": found.participants.participant_id,
        "model": {"model_sha256": model_sha256(model), "n_frames": model.config.n_frames},
        "options": asdict(options),
        "measures": [asdict(measure) for measure in found.measures],
        "prediction": prediction,
        "interval": "95 %, percentile bootstrap over participants (sanity: and over draws of weights)",
    }


def _short(value: Any) -> str:
    """Text of a setting: numbers short, lists with commas."""
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{one:.3g}" if isinstance(one, float) else str(one) for one in values)


def _number(value: float) -> float | None:
    return float(value) if value == value else None  # JSON has no NaN
