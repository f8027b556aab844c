"""The sanity check of a run: every map once more with other weights, other targets, and without a model.

On the first window of each participant, before and after: it is the map that is compared, not its precision.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bjepa.model.explain.maps import AttributionSettings, attention_over, attribution_over, input_map
from bjepa.model.explain.measures import Measure
from bjepa.model.explain.output_network import Subject
from bjepa.model.explain.randomise import COMPLETE, cascade, stages
from bjepa.model.explain.sanity import INPUT, SHUFFLED, SanityRow, map_pearson, map_similarity
from bjepa.model.explain.windows import Participants

Array = NDArray[np.float64]
log = logging.getLogger(__name__)


def sanity_rows(
    subject: Subject,
    participants: Participants,
    measures: Sequence[Measure],
    *,
    kind: str,
    n_draws: int,
    seed: int,
    settings: AttributionSettings | None = None,
    shuffled: Callable[[int], Subject] | None = None,
) -> list[SanityRow]:
    """Rows for each measure and check.

    Parameters
    ----------
    subject, participants
        Those on whom it is checked.
    kind
        `cascade`: every stage from the top; `complete`: the last stage alone.
    settings
        Of attribution; None: attention alone.
    shuffled
        Draw number -> the subject with heads fitted to a shuffled target; None: there are none.
    """
    participants = replace(participants, first_window=True)
    layers = [m.layer for m in measures if m.layer is not None]

    def maps_of(one: Subject) -> dict[str, Array]:
        found = attention_over(one, participants, layers=layers, rollout=True)
        return found if settings is None else found | attribution_over(one, participants, settings)[0]

    before = maps_of(subject)
    checks = stages(subject) if kind == "cascade" else [COMPLETE]
    after: dict[str, list[dict[str, Array]]] = {check: [] for check in checks}
    for draw in range(n_draws):
        for stage, changed in cascade(subject, seed=seed, draw=draw, only=checks):
            after[stage].append(maps_of(changed))
            log.info("sanity check: draw %d of %d, %s", draw + 1, n_draws, stage)
        if shuffled is not None:
            after.setdefault(SHUFFLED, []).append(maps_of(shuffled(draw)))

    rows = []

    def compare(measure: Measure, check: str, changed_dnR: Array) -> None:
        own = before[measure.name]
        similarity, pearson = map_similarity(own, changed_dnR, seed=seed), map_pearson(own, changed_dnR)
        rows.append(SanityRow(measure.name, check, similarity, pearson, len(participants), len(changed_dnR)))

    for measure in measures:
        for check, found in after.items():
            if _changes(check, measure):
                compare(measure, check, np.stack([maps[measure.name] for maps in found]))
        if measure.is_attribution and not measure.is_signed:
            compare(measure, INPUT, input_map(participants)[None])
    return rows


def _changes(check: str, measure: Measure) -> bool:
    """Whether a check can change a measure at all: attention does not see what lies above its layer."""
    if measure.is_attribution:
        return True
    if not check.startswith("block "):
        return check == COMPLETE
    return measure.layer is None or int(check.removeprefix("block ")) <= measure.layer
