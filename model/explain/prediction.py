"""The prediction of a run: who is predicted, what heads are worth, and what they rest on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bjepa.model.encoder import Encoder
from bjepa.model.evaluation.cohort import Cohort, load_cohort
from bjepa.model.evaluation.splits import Splits, make_splits
from bjepa.model.explain.maps import AttributionSettings
from bjepa.model.explain.options import ExplainOptions
from bjepa.model.explain.prediction_head import CrossFitted, LinearHead, cross_fit, embed_participants
from bjepa.model.explain.windows import Participants
from bjepa.preproc.errors import InputError
from bjepa.preproc.participants import bare_id
from bjepa.preproc.shards import ShardReader

N_BASELINES = 4  # windows of other participants, with --baseline participants
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Heads fitted to everyone's embedding, and how well they predict."""

    cohort: Cohort
    splits: Splits
    embedding: NDArray[np.float32]  # (n, D), in the order of the cohort
    fitted: CrossFitted
    target_class: str  # whose output is explained; "" in regression

    @property
    def unit(self) -> str:
        """Of the output."""
        if not self.target_class:
            return f"units of {self.cohort.target_name}"
        return f"log-odds of {self.target_class}"

    def heads(self, rows: NDArray[np.int64]) -> list[LinearHead]:
        """For each of these participants the head that did not see them."""
        return [self.fitted.heads[int(self.fitted.head_of[row])] for row in rows]

    def shuffled_heads(self, rows: NDArray[np.int64], *, seed: int, draw: int) -> list[LinearHead]:
        """The same with heads fitted to targets that were dealt out anew among all participants."""
        target = np.random.default_rng([seed, draw, 3]).permutation(self.cohort.target)
        shuffled = replace(self.cohort, target=target)
        fitted = cross_fit(self.embedding, shuffled, self.splits, target_class=self.target_class or None)
        return [fitted.heads[int(fitted.head_of[row])] for row in rows]


def load_target(reader: ShardReader, table: Path, target: str, options: ExplainOptions) -> Cohort:
    """Participants with a scan and a value of the target.

    Raises
    ------
    InputError
        As `load_cohort`; a class that the target does not have, or one for a regression.
    """
    cohort = load_cohort(
        table,
        target=target,
        with_scan={bare_id(p) for p in reader.scans["participant_id"]},
        task=options.task,
        group=options.group,
    )
    if options.target_class is not None and options.target_class not in cohort.classes:
        raise InputError(
            f"--class: {target!r} has no class {options.target_class!r}"
            + (f"; there are {', '.join(cohort.classes)}." if cohort.classes else ": it is a regression."),
        )
    return cohort


def predict(
    encoder: Encoder, participants: Participants, cohort: Cohort, options: ExplainOptions
) -> Prediction:
    """Embed the participants (those of the cohort, in its order) and fit heads to them."""
    splits = make_splits(cohort, n_splits=options.n_splits, seed=options.seed)
    embedding = embed_participants(encoder, participants)
    fitted = cross_fit(embedding, cohort, splits, target_class=options.target_class)
    log.info("%s of %s: %s", fitted.metric, cohort.target_name, fitted.estimate)
    explained = (options.target_class or cohort.classes[-1]) if cohort.classes else ""
    return Prediction(
        cohort=cohort, splits=splits, embedding=embedding, fitted=fitted, target_class=explained
    )


def attribution_settings(everyone: Participants, options: ExplainOptions) -> AttributionSettings:
    """Methods and baselines: zeros (the regions' medians), or windows of participants drawn by the seed."""
    shape = everyone.reader.n_rois, everyone.n_frames
    baselines: Sequence[tuple[str, NDArray[np.float32]]] = [("", np.zeros(shape, dtype=np.float32))]
    n_baselines = 1
    if options.baseline == "participants":
        # one more than is used: nobody is their own baseline
        n_baselines = min(N_BASELINES, len(everyone) - 1)
        drawn = np.random.default_rng([options.seed, 4]).permutation(len(everyone))[: n_baselines + 1]
        baselines = [(everyone.participant_id[i], next(everyone[int(i)]).x_RL) for i in drawn]
        if n_baselines < 1:
            raise InputError("--baseline participants needs two participants or more; there is one.")
    return AttributionSettings(
        methods=options.attribution,
        baselines=list(baselines),
        n_baselines=n_baselines,
        n_steps=options.n_steps,
        batch_size=options.batch_size,
    )
