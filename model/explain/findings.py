"""What an explanation says, in plain sentences; warnings where it says less than it seems to."""

from typing import NamedTuple

import numpy as np

from bjepa.model.evaluation.intervals import Estimate
from bjepa.model.evaluation.metrics import CHANCE, LABELS
from bjepa.model.explain.explanation import Explanation
from bjepa.model.explain.measures import Measure
from bjepa.model.explain.networks import DIFFERENCE
from bjepa.model.explain.randomise import COMPLETE
from bjepa.model.explain.sanity import INPUT, SHUFFLED

NEARLY_UNIFORM = 0.02  # networks within 2 % of what is expected: said so
LARGE_GAP = 0.05  # share of the change of the output that integrated gradients may miss, unsaid
FEW = 20  # participants; below, a percentile bootstrap is too narrow


class Finding(NamedTuple):
    """One sentence of the report."""

    text: str
    warning: bool


def findings(found: Explanation) -> list[Finding]:
    """The sentences, in the order of the report."""
    sentences: list[Finding] = []
    if found.prediction is not None:
        sentences += _on_the_prediction(found)
    for measure in found.measures:
        if measure.layer is not None and measure.layer != max(m.layer or 0 for m in found.measures):
            continue  # all layers are in the table; the last one asked for gets the sentence
        sentences += [*_on_networks(found, measure), *_on_sanity(found, measure)]
    if not found.sanity:
        text = "No sanity check was made (--sanity none): it is not known whether these maps tell what was "
        sentences.append(Finding(text + "learnt.", True))
    if not found.schemes:
        sentences.append(
            Finding("The atlas names no networks: there are results per region only (regions.tsv).", True)
        )
    if (n := len(found.participants)) < FEW:
        sentences.append(
            Finding(f"{n} participants are few: intervals over participants are too narrow.", True)
        )
    return sentences


def _on_the_prediction(found: Explanation) -> list[Finding]:
    assert found.prediction is not None
    fitted, name = found.prediction.heads, found.prediction.cohort.target_name
    score = f"{LABELS[fitted.metric]} {interval(fitted.estimate)}, chance is {CHANCE[fitted.metric]:g}"
    if fitted.estimate.low > CHANCE[fitted.metric]:
        return [Finding(f"The head predicts {name} in participants that it has not seen: {score}.", False)]
    text = f"The head is not shown to predict {name} better than chance ({score}): its attribution explains "
    return [
        Finding(text + "a prediction that is not worth explaining. Do not read the maps as findings.", True)
    ]


def _on_networks(found: Explanation, measure: Measure) -> list[Finding]:
    if measure.is_signed or not found.schemes:
        return []
    sentences = []
    for scheme in found.schemes[:1]:
        if scheme.name == "structure":
            continue
        rows = found.rows(scheme.name, measure)
        high = max(rows, key=lambda row: row.estimate.mean)
        low = min(rows, key=lambda row: row.estimate.mean)
        text = (
            f"{_capital(measure.label)}: most in {high.network} (×{interval(high.estimate)}), least in "
            f"{low.network} (×{interval(low.estimate)}), of {len(rows)} networks; 1 is expected."
        )
        sentences.append(Finding(text, False))
        if max(abs(row.estimate.mean - 1) for row in rows) < NEARLY_UNIFORM:
            text = f"{_capital(measure.label)}: all networks lie within {100 * NEARLY_UNIFORM:.0f} % of 1, "
            sentences.append(Finding(text + "hardly a preference; read no ranking into it.", True))
    for row in found.rows("structure", measure):
        if row.network == DIFFERENCE:
            side = "cortex is above subcortex" if row.estimate.mean > 0 else "subcortex is above cortex"
            clear = row.estimate.low > 0 or row.estimate.high < 0
            difference = f"cortex minus subcortex {interval(row.estimate, signed=True)}"
            text = side if clear else "cortex and subcortex are not shown to differ"
            sentences.append(Finding(f"{_capital(measure.label)}: {text} ({difference}).", False))
    return sentences


def _on_sanity(found: Explanation, measure: Measure) -> list[Finding]:
    sentences = []
    checks = {row.check: row for row in found.sanity if row.measure == measure.name}
    if COMPLETE in checks:
        row, name = checks[COMPLETE], _capital(measure.label)
        rho = f"ρ {interval(row.similarity)}"
        if row.verdict == "survives":
            text = f"{name}: the map SURVIVES weights drawn anew ({rho}). It tells about the input or the "
            sentences.append(Finding(text + "architecture, not about what was learnt.", True))
        elif row.verdict == "destroyed":
            text = f"{name}: weights drawn anew destroy the map ({rho}), so it depends on what was learnt."
            sentences.append(Finding(text, False))
        elif row.verdict == "unclear":
            text = (
                f"{name}: whether the map needs what was learnt is unclear, draws of weights differ ({rho}); "
            )
            sentences.append(Finding(text + "try more --sanity-draws.", True))
        elif row.verdict == "kept in part":
            text = f"{name}: the map is kept in part with weights drawn anew ({rho}): part of it comes from "
            sentences.append(Finding(text + "the input or the architecture.", True))
        for check, what in (
            (SHUFFLED, "with a head fitted to a shuffled target; it does not depend on the target"),
            (INPUT, "as the size of the input, without any model"),
        ):
            if check in checks and checks[check].verdict == "survives":
                text = (
                    f"{name}: nearly the same map comes out {what} (ρ {interval(checks[check].similarity)})."
                )
                sentences.append(Finding(text, True))
    return sentences


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """`1.04 [1.02, 1.07]`: mean and 95 % interval; enough digits to see the interval's width."""
    width = estimate.high - estimate.low
    digits = 2 if not np.isfinite(width) or width <= 0 else int(np.clip(1 - np.floor(np.log10(width)), 2, 5))
    sign = "+" if signed else ""
    if not np.isfinite(estimate.mean):
        return "n/a"
    mean = f"{estimate.mean:{sign}.{digits}f}"
    if np.isfinite(estimate.low):
        mean += f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return mean.replace("-", "−")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
