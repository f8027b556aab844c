"""`bjepa-evaluate explain`: attention of all participants, attribution of a prediction, both checked.

Order of operations:
  1. participants: all with a scan, or with a target; `limit` of them drawn by the seed
  2. with a target: heads, each fitted without the participants that it explains
  3. attention of the chosen layers and rollout, per window, then participant; of a fine-tuned encoder where
     there is one
  4. with a target: attribution of each participant's prediction
  5. sanity check, on `sanity_participants` of them: the same maps with weights drawn anew
  6. networks, tables, pictures, report
The tables depend on model, data, options and seed alone: the same command writes the same bytes.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bjepa.model.evaluation.scan_data import load_scan_data
from bjepa.model.explain.attribution import captum_attr
from bjepa.model.explain.explanation import Explanation
from bjepa.model.explain.maps import AttributionSettings, attention_over, attribution_over
from bjepa.model.explain.measures import attention_measure, attribution_measures, rollout_measure
from bjepa.model.explain.networks import network_rows, schemes_of
from bjepa.model.explain.options import ExplainOptions
from bjepa.model.explain.output_network import Subject, subject_of
from bjepa.model.explain.prediction import Prediction, attribution_settings, load_target, predict
from bjepa.model.explain.sanity_run import sanity_rows
from bjepa.model.explain.windows import participants_of
from bjepa.model.explain.write import write_explanation
from bjepa.model.jepa import JEPA
from bjepa.model.readouts.suits import check_fits
from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id, read_participant_list

log = logging.getLogger(__name__)


def run_explain(
    model: JEPA,
    data: Path,
    output: Path,
    *,
    participants: Path | None = None,
    target: str | None = None,
    options: ExplainOptions | None = None,
    device: str = "cpu",
    command: Sequence[str] = (),
) -> Explanation:
    """Explain what the target encoder attends to and, with a `target`, what a prediction rests on.

    Parameters
    ----------
    data
        Output folder of bjepa-preprocess, with the atlas of the model.
    output
        Folder for tables, pictures and report.
    participants
        With a target: the participants.tsv that holds it. Without: a list of those to explain; None: all.
    target
        Column of `participants` that is predicted; None: attention alone.

    Raises
    ------
    InputError
        Data that do not fit the model; a layer that it does not have; a target without its table; captum
        missing where it is needed; a target or participants as `load_target` refuses them.
    """
    started = time.perf_counter()
    options = options or ExplainOptions()
    depth = model.config.depth
    layers = options.layers(depth)
    scans = load_scan_data(data)
    if scans.reader is None:
        raise InputError(
            f"explain needs series; {data} holds connectivity only.",
            hint="Give an output folder of bjepa-preprocess.",
        )
    check_fits(model, scans.reader)
    cohort = None
    if target is None:
        listed = None if participants is None else [bare_id(p) for p in read_participant_list(participants)]
    else:
        captum_attr()  # refused now, not after an hour of attention
        if participants is None:
            raise InputError(
                f"--target {target} was given without --participants.",
                hint="Give the participants.tsv that holds the column.",
            )
        cohort = load_target(scans, participants, target, options)
        listed = cohort.participant_id
    everyone = participants_of(model, scans.reader, listed)
    chosen = options.draw(len(everyone), options.limit)
    model.to(device).eval()

    found = Explanation(
        participants=everyone.of(chosen),
        schemes=schemes_of(scans.reader.rois),
        measures=[*(attention_measure(layer, depth) for layer in layers), rollout_measure()],
    )
    subject = subject_of(model.target_encoder, [], np.zeros(len(chosen), dtype=np.int64))
    settings = None
    if cohort is not None:
        settings = attribution_settings(everyone, options)
        found.prediction = predict(model, scans, everyone, cohort, options, device)
        subject = found.prediction.subject(chosen)
    log.info("attention of %d participants", len(chosen))
    found.maps |= attention_over(subject, found.participants, layers=layers, rollout=True)
    if found.prediction is not None and settings is not None:
        for method in options.attribution:
            found.measures += attribution_measures(method, unit=found.prediction.unit)
        log.info("attribution of %d predictions", len(chosen))
        maps, found.completeness = attribution_over(subject, found.participants, settings)
        found.maps |= maps
    if options.sanity != "none":
        _check(found, subject, chosen, settings, options)
    for scheme in found.schemes:
        for m in found.measures:
            found.networks += network_rows(
                scheme, m.name, found.maps[m.name], expected=m.expected, seed=options.seed
            )
    write_explanation(
        output,
        found,
        model,
        scans,
        table=participants,
        options=options,
        command=command,
        wall_time=time.perf_counter() - started,
    )
    return found


def _check(
    found: Explanation,
    subject: Subject,
    chosen: NDArray[np.int64],
    settings: AttributionSettings | None,
    options: ExplainOptions,
) -> None:
    """The sanity check, into `found.sanity`."""
    checked = options.draw(len(chosen), options.sanity_participants)

    def shuffled(predicted: Prediction) -> "list[Subject]":
        return [predicted.shuffled(chosen[checked], draw=draw) for draw in range(options.sanity_draws)]

    can_shuffle = found.prediction is not None and options.head == "linear"
    others = shuffled(found.prediction) if can_shuffle and found.prediction is not None else []
    found.sanity = sanity_rows(
        subject.of(checked),
        found.participants.of(checked),
        found.measures,
        kind=options.sanity,
        n_draws=options.sanity_draws,
        seed=options.seed,
        settings=settings,
        shuffled=others.__getitem__ if others else None,
    )
