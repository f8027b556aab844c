"""What is measured of each region, by name: labels, units, and what to expect where nothing stands out.

Magnitudes and attention are told in multiples of the mean region of the same participant, so participants
count alike, and a network of many regions is not ahead of one of few: 1 is expected. Signed attributions
stay in units of the output: 0 is expected.
"""

from dataclasses import dataclass

ATTENTION, ROLLOUT = "attention", "rollout"
SIGNED = "_signed"
METHOD_LABELS = {
    "integrated-gradients": "integrated gradients",
    "occlusion": "occlusion of one region",
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One column of regions.tsv."""

    name: str
    label: str
    unit: str
    expected: float
    layer: int | None = None  # of attention: randomising what lies above cannot change it

    @property
    def is_attribution(self) -> bool:
        """Whether it is of a prediction, not of attention."""
        return not self.name.startswith((ATTENTION, ROLLOUT))

    @property
    def is_signed(self) -> bool:
        """Whether it can be below 0."""
        return self.name.endswith(SIGNED)


def attention_measure(layer: int, depth: int) -> Measure:
    """Attention received in a layer, from 1."""
    return Measure(
        name=f"{ATTENTION}_layer_{layer}",
        label=f"attention received, layer {layer} of {depth}",
        unit="× uniform attention",
        expected=1.0,
        layer=layer,
    )


def rollout_measure() -> Measure:
    """Attention through all layers."""
    return Measure(
        name=ROLLOUT, label="attention rollout, all layers", unit="× uniform attention", expected=1.0
    )


def attribution_measures(method: str, *, unit: str) -> tuple[Measure, Measure]:
    """Magnitude and signed sum of an attribution method; `unit` is that of the output."""
    name, label = method.replace("-", "_"), METHOD_LABELS[method]
    return (
        Measure(name=name, label=f"{label}, magnitude", unit="× mean region", expected=1.0),
        Measure(name=name + SIGNED, label=f"{label}, signed", unit=unit, expected=0.0),
    )
