"""The prediction of a run: who is predicted, by which heads, and how it is attributed."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bjepa.model.encoder import Encoder
from bjepa.model.evaluation.cohort import Cohort, load_cohort
from bjepa.model.evaluation.embedding_file import embed_scans
from bjepa.model.evaluation.scan_data import ScanData, average_by_participant
from bjepa.model.evaluation.splits import Splits, make_splits
from bjepa.model.explain.heads import Heads, linear_heads
from bjepa.model.explain.maps import AttributionSettings
from bjepa.model.explain.options import ExplainOptions
from bjepa.model.explain.output_network import Subject, subject_of
from bjepa.model.explain.tuned_heads import tuned_heads
from bjepa.model.explain.windows import Participants
from bjepa.model.jepa import JEPA
from bjepa.model.readouts.pooling import BY_NETWORK, check_pooling, network_numbers
from bjepa.preproc.errors import InputError

N_BASELINES = 4  # windows of other participants, with --baseline participants
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Heads fitted to all participants of the cohort, and how well they predict."""

    cohort: Cohort
    splits: Splits
    heads: Heads
    target_class: str  # whose output is explained; "" in regression
    encoder: Encoder  # frozen
    refit: Callable[[Cohort], Heads] | None  # linear heads to another target of the same people
    options: ExplainOptions

    @property
    def unit(self) -> str:
        """Of the output."""
        if not self.target_class:
            return f"units of {self.cohort.target_name}"
        return f"log-odds of {self.target_class}" if len(self.cohort.classes) == 2 else "logits"

    def subject(self, rows: NDArray[np.int64]) -> Subject:
        """These participants, each with the head that did not see them."""
        return subject_of(self.encoder, self.heads.outputs, self.heads.output_of[rows])

    def shuffled(self, rows: NDArray[np.int64], *, draw: int) -> Subject:
        """The same with linear heads fitted to targets that were dealt out anew among all participants."""
        if self.refit is None:
            raise ValueError("only linear heads are fitted to shuffled targets.")
        target = np.random.default_rng([self.options.seed, draw, 3]).permutation(self.cohort.target)
        heads = self.refit(replace(self.cohort, target=target))
        return subject_of(self.encoder, heads.outputs, heads.output_of[rows])


def load_target(data: ScanData, table: Path, target: str, options: ExplainOptions) -> Cohort:
    """Participants with a scan and a value of the target.

    Raises
    ------
    InputError
        As `load_cohort`; a class that the target does not have, or one for a regression.
    """
    cohort = load_cohort(
        table, target=target, with_scan=set(data.participant_id), task=options.task, group=options.group
    )
    if options.target_class is not None and options.target_class not in cohort.classes:
        raise InputError(
            f"--class: {target!r} has no class {options.target_class!r}"
            + (f"; there are {', '.join(cohort.classes)}." if cohort.classes else ": it is a regression."),
        )
    return cohort


def predict(
    model: JEPA, data: ScanData, everyone: Participants, cohort: Cohort, options: ExplainOptions, device: str
) -> Prediction:
    """Fit heads to the participants of the cohort; `everyone` are the same people in the same order."""
    check_pooling(options.pooling, n_patches=model.config.n_patches)
    reader = everyone.reader
    splits = make_splits(cohort, n_splits=options.n_splits, seed=options.seed)
    explained = (options.target_class or cohort.classes[-1]) if cohort.classes else ""
    class_number = cohort.classes.index(explained) if explained else 0
    network_R = network_numbers(reader.rois["network17"]) if options.pooling in BY_NETWORK else None
    refit: Callable[[Cohort], Heads] | None = None
    if options.head == "linear":
        embedded = embed_scans(
            model, reader, pooling=options.pooling, batch_size=options.batch_size, device=device
        ).embedding
        features = average_by_participant(embedded, data.participant_id, cohort.participant_id)

        def fit(cohort: Cohort) -> Heads:
            return linear_heads(
                model.target_encoder,
                features,
                cohort,
                splits,
                class_number=class_number,
                pooling=options.pooling,
                network_R=network_R,
                device=device,
            )

        refit, heads = fit, fit(cohort)
    else:
        heads = tuned_heads(
            model,
            data,
            everyone.read,
            cohort,
            splits,
            class_number=class_number,
            pooling=options.pooling,
            network_R=network_R,
            max_epochs=options.max_epochs,
            device=device,
            seed=options.seed,
        )
    log.info("%s of %s: %.3f [%.3f, %.3f]", heads.metric, cohort.target_name, *heads.estimate)
    return Prediction(
        cohort=cohort,
        splits=splits,
        heads=heads,
        target_class=explained,
        encoder=model.target_encoder,
        refit=refit,
        options=options,
    )


def attribution_settings(everyone: Participants, options: ExplainOptions) -> AttributionSettings:
    """Methods and baselines: zeros (the regions' medians), or windows of participants drawn by the seed.

    Raises InputError where other participants are wanted and there are none.
    """
    shape = everyone.reader.n_rois, everyone.n_frames
    baselines: Sequence[tuple[str, NDArray[np.float32]]] = [("", np.zeros(shape, dtype=np.float32))]
    n_baselines = 1
    if options.resolved_baseline == "participants":
        n_baselines = min(N_BASELINES, len(everyone) - 1)
        if n_baselines < 1:
            raise InputError("--baseline participants needs two participants or more; there is one.")
        # one more than is used: nobody is their own baseline
        drawn = np.random.default_rng([options.seed, 4]).permutation(len(everyone))[: n_baselines + 1]
        baselines = [(everyone.participant_id[i], next(everyone[int(i)]).x_RL) for i in drawn]
    return AttributionSettings(
        methods=options.attribution,
        baselines=list(baselines),
        n_baselines=n_baselines,
        n_steps=options.n_steps,
        batch_size=options.batch_size,
    )
