"""The network whose output is attributed: a window to one number.

    LinearOutput   frozen encoder, pooling, one linear map (fitted by scikit-learn)
    TunedOutput    a fine-tuned network; of several outputs the combination that is explained

    output   regression: the target, in its units
             two classes: log-odds of the class explained
             more: its logit minus the mean of all logits
Pooling: model/readouts/pooling.py. The output of a participant is the mean over its windows, so what is
attributed in windows adds up.

A `Subject` is what is explained as a whole: encoders, outputs, and which of them belong to a participant.
With a frozen encoder all participants share it; fine-tuned, each split has its own.

B windows, R regions, L frames, F pooled features, O outputs of a fine-tuned network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.encoder import Encoder
from bjepa.model.readouts.finetuning import HEAD_STD, EncoderWithHead
from bjepa.model.readouts.pooling import Pooling, pool
from bjepa.model.readouts.windows import tokens_on_grid

Array = NDArray[np.float64]


class OutputNetwork(Protocol):
    """What attribution and the sanity check need."""

    @property
    def encoder(self) -> Encoder: ...

    def __call__(self, x_BRL: Tensor, present_BR: Tensor, t_r_B: Tensor) -> Tensor: ...

    def redraw_head(self, generator: torch.Generator) -> None:
        """Draw what lies above the encoder anew (on the CPU: the same on every device)."""


class LinearOutput(nn.Module):
    """`pooled @ weight + bias`; what is not known of a window (NaN) takes the training mean, `fill`."""

    weight_F: Tensor
    bias: Tensor
    fill_F: Tensor
    network_R: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        weight_F: Array,
        bias: float,
        *,
        pooling: Pooling = "mean",
        network_R: NDArray[np.int64] | None = None,
        fill_F: Array | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.register_buffer("weight_F", torch.as_tensor(weight_F, dtype=torch.float32))
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32))
        fill = np.zeros(len(weight_F)) if fill_F is None else fill_F
        self.register_buffer("fill_F", torch.as_tensor(fill, dtype=torch.float32))
        self.register_buffer("network_R", None if network_R is None else torch.from_numpy(network_R))

    def forward(self, x_BRL: Tensor, present_BR: Tensor, t_r_B: Tensor) -> Tensor:
        """(B,)."""
        tokens_BRTD = tokens_on_grid(self.encoder, x_BRL, present_BR, t_r_B)
        pooled_BF = pool(tokens_BRTD, self.pooling, present_BR=present_BR, network_R=self.network_R)
        out: Tensor = torch.where(pooled_BF.isfinite(), pooled_BF, self.fill_F) @ self.weight_F + self.bias
        return out

    def redraw_head(self, generator: torch.Generator) -> None:
        """Another direction, as long."""
        drawn = torch.randn(len(self.weight_F), generator=generator)
        length = torch.linalg.vector_norm(self.weight_F)
        self.weight_F.copy_(drawn.to(length) * length / torch.linalg.vector_norm(drawn).to(length))


class TunedOutput(nn.Module):
    """`(network(x) @ combination) * scale + shift`."""

    combination_O: Tensor

    def __init__(
        self, network: EncoderWithHead, combination_O: Array, *, scale: float = 1.0, shift: float = 0.0
    ) -> None:
        super().__init__()
        self.network, self.scale, self.shift = network, scale, shift
        self.register_buffer("combination_O", torch.as_tensor(combination_O, dtype=torch.float32))

    @property
    def encoder(self) -> Encoder:
        return self.network.encoder

    def forward(self, x_BRL: Tensor, present_BR: Tensor, t_r_B: Tensor) -> Tensor:
        """(B,)."""
        out: Tensor = self.network(x_BRL, present_BR, t_r_B) @ self.combination_O * self.scale + self.shift
        return out

    def redraw_head(self, generator: torch.Generator) -> None:
        """As before training; the norm between pooling and head too."""
        weight = self.network.head.weight
        weight.copy_(torch.randn(weight.shape, generator=generator).to(weight) * HEAD_STD)
        nn.init.zeros_(self.network.head.bias)
        if isinstance(self.network.norm, nn.LayerNorm):
            self.network.norm.reset_parameters()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """n participants; numbers say whose is which."""

    encoders: list[Encoder]
    encoder_of: NDArray[np.int64]  # (n,)
    outputs: list[OutputNetwork] = field(default_factory=list)
    output_of: NDArray[np.int64] | None = None  # (n,); None: there is no output, attention alone

    def of(self, rows: NDArray[np.int64]) -> "Subject":
        """Some of the participants."""
        output_of = None if self.output_of is None else self.output_of[rows]
        return replace(self, encoder_of=self.encoder_of[rows], output_of=output_of)

    def encoder(self, number: int) -> Encoder:
        """That of participant `number`."""
        return self.encoders[int(self.encoder_of[number])]

    def output(self, number: int) -> OutputNetwork:
        """That of participant `number`."""
        if self.output_of is None:
            raise ValueError("there is no output to attribute.")
        return self.outputs[int(self.output_of[number])]


def subject_of(encoder: Encoder, outputs: Sequence[OutputNetwork], output_of: NDArray[np.int64]) -> Subject:
    """Outputs, each a participant's by number; without any, the attention of `encoder` alone."""
    if not outputs:
        return Subject(encoders=[encoder], encoder_of=np.zeros(len(output_of), dtype=np.int64))
    encoders: list[Encoder] = []
    number_of = []
    for output in outputs:
        if not any(output.encoder is known for known in encoders):
            encoders.append(output.encoder)
        number_of.append(next(i for i, known in enumerate(encoders) if known is output.encoder))
    return Subject(
        encoders=encoders,
        encoder_of=np.array(number_of)[output_of],
        outputs=list(outputs),
        output_of=output_of,
    )
