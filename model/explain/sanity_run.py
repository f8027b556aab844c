"""The sanity check of a run: every map once more with other weights, other targets, and without a model."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bjepa.model.encoder import Encoder
from bjepa.model.explain.maps import AttributionSettings, attention_over, attribution_over, input_map
from bjepa.model.explain.measures import Measure
from bjepa.model.explain.prediction_head import LinearHead
from bjepa.model.explain.randomise import COMPLETE, HEAD, cascade, stages
from bjepa.model.explain.sanity import INPUT, SHUFFLED, SanityRow, map_similarity
from bjepa.model.explain.windows import Participants

Array = NDArray[np.float64]
log = logging.getLogger(__name__)


def sanity_rows(
    encoder: Encoder,
    participants: Participants,
    maps: Mapping[str, Array],
    measures: Sequence[Measure],
    *,
    kind: str,
    n_draws: int,
    seed: int,
    heads: Sequence[LinearHead] = (),
    shuffled_heads: Callable[[int], Sequence[LinearHead]] | None = None,
    settings: AttributionSettings | None = None,
) -> list[SanityRow]:
    """Rows for each measure and check.

    Parameters
    ----------
    participants
        Those on whom it is checked; `maps` (n, R), `heads` and `shuffled_heads(draw)` are theirs.
    kind
        `cascade`: every stage from the top; `complete`: the last stage alone.
    """
    attributes = settings is not None
    wanted = stages(encoder, with_head=attributes) if kind == "cascade" else [COMPLETE]
    layers = [m.layer for m in measures if m.layer is not None]
    after: dict[str, list[dict[str, Array]]] = {}

    def keep(stage: str, found: dict[str, Array]) -> None:
        after.setdefault(stage, []).append(found)

    for draw in range(n_draws):
        drawn_heads = [_draw_head(head, seed=seed, draw=draw) for head in heads]
        if settings is not None and HEAD in wanted:
            keep(HEAD, attribution_over(encoder, drawn_heads, participants, settings)[0])
        for stage, changed in cascade(encoder, seed=seed, draw=draw, only=set(wanted)):
            found = attention_over(changed, participants, layers=layers, rollout=True)
            if settings is not None:
                found |= attribution_over(changed, drawn_heads, participants, settings)[0]
            keep(stage, found)
            log.info("sanity check: draw %d of %d, %s", draw + 1, n_draws, stage)
        if settings is not None and shuffled_heads is not None:
            keep(SHUFFLED, attribution_over(encoder, shuffled_heads(draw), participants, settings)[0])

    rows = []
    for measure in measures:
        for check in [*wanted, *([SHUFFLED] if SHUFFLED in after else [])]:
            if measure.name not in after[check][0] or _lies_above(check, measure):
                continue
            changed_dnR = np.stack([found[measure.name] for found in after[check]])
            similarity = map_similarity(maps[measure.name], changed_dnR, seed=seed)
            rows.append(SanityRow(measure.name, check, similarity, len(participants), n_draws))
        if measure.is_attribution and not measure.is_signed:
            similarity = map_similarity(maps[measure.name], input_map(participants)[None], seed=seed)
            rows.append(SanityRow(measure.name, INPUT, similarity, len(participants), 1))
    return rows


def _lies_above(check: str, measure: Measure) -> bool:
    """Whether a stage changes only layers above the one that attention is read from: nothing could change."""
    return measure.layer is not None and check.startswith("block ") and int(check[6:]) > measure.layer


def _draw_head(head: LinearHead, *, seed: int, draw: int) -> LinearHead:
    """Another direction, as long. The same for all heads of a draw, as all had been fitted to one target."""
    direction = np.random.default_rng([seed, draw, 2]).normal(size=len(head.weight))
    return LinearHead(direction * np.linalg.norm(head.weight) / np.linalg.norm(direction), 0.0)
