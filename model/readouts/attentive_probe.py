"""Attentive probe: the encoder stays frozen, a learned query looks at its tokens and a linear layer reads it.

    q  learned, (D,)                       k, v = linear maps of LayerNorm(tokens)
    z = q + cross-attention(q, k, v);      z = z + MLP(LayerNorm(z));      out = linear(LayerNorm(z))

So the readout can weigh regions and times, which a mean cannot; it still cannot correlate two regions, as
second-order pooling does. Source: the attentive probe of Bardes et al. 2024, "Revisiting feature prediction
for learning visual representations from video" (V-JEPA), arXiv:2404.08471. Here it has as many heads as the
encoder.

Tokens are computed once per window and kept where all of a part fit into KEPT_BYTES, else anew each epoch.

B windows, R regions, T patches, N = R T tokens, D embed_dim.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bjepa.model.encoder import Encoder
from bjepa.model.evaluation.fold import Fold, Method, Prediction
from bjepa.model.evaluation.samples import Samples
from bjepa.model.readouts.finetuning import read_scaled, recordings_for
from bjepa.model.readouts.fit_network import FitSettings, fit_network, predict_network
from bjepa.model.readouts.windows import tokens_on_grid, window_samples

if TYPE_CHECKING:
    from bjepa.model import JEPA

NORM_EPS = 1e-6
INIT_STD = 0.02
KEPT_BYTES = 2**31  # of tokens that stay in memory, of one part of a fold
ATTENTIVE = FitSettings(epochs=50, batch_size=16, lr=1e-3, weight_decay=0.05, warmup_epochs=5, patience=15)


class AttentiveHead(nn.Module):
    """Tokens (B, N, D) and which of them exist (B, N) -> (B, n_outputs)."""

    def __init__(
        self,
        embed_dim: int,
        *,
        num_heads: int,
        n_outputs: int,
        mlp_ratio: float = 4.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.empty(embed_dim))
        self.norm_tokens, self.norm_mlp, self.norm_out = (
            nn.LayerNorm(embed_dim, eps=NORM_EPS) for _ in range(3)
        )
        self.to_q, self.to_k, self.to_v, self.proj = (nn.Linear(embed_dim, embed_dim) for _ in range(4))
        hidden = int(embed_dim * mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(embed_dim, hidden), nn.Linear(hidden, embed_dim)
        self.head = nn.Linear(embed_dim, n_outputs)
        nn.init.normal_(self.query, std=INIT_STD, generator=generator)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=INIT_STD, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens_BND: Tensor, exists_BN: Tensor) -> Tensor:
        """As on top of the file."""
        B, _, D = tokens_BND.shape
        normed = self.norm_tokens(tokens_BND)
        k, v = (self._in_heads(layer(normed)) for layer in (self.to_k, self.to_v))  # (B, H, N, d)
        q = self._in_heads(self.to_q(self.query).expand(B, 1, D))  # (B, H, 1, d)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=exists_BN[:, None, None, :])
        z_BD = self.query + self.proj(seen.transpose(1, 2).reshape(B, D))
        z_BD = z_BD + self.fc2(F.gelu(self.fc1(self.norm_mlp(z_BD))))
        out: Tensor = self.head(self.norm_out(z_BD))
        return out

    def _in_heads(self, x_BND: Tensor) -> Tensor:
        B, N, D = x_BND.shape
        return x_BND.view(B, N, self.num_heads, D // self.num_heads).transpose(1, 2)


def attentive_probe_method(model: JEPA, *, settings: FitSettings = ATTENTIVE) -> Method:
    """The method `attentive-probe` of a model."""
    return Method(
        summary="the frozen model; a learned query attends to the target encoder's tokens, linear head",
        inputs=partial(recordings_for, model),
        fit_predict=partial(fit_attentive_probe, model=model, settings=settings),
        needs_series=True,
        trains_network=True,
    )


def fit_attentive_probe(fold: Fold, model: JEPA, *, settings: FitSettings = ATTENTIVE) -> Prediction:
    """Fit the head on the training part of a fold, stop by the validation part, predict the test part.

    Raises InputError where a participant has no whole window of the model.
    """
    rows = np.arange(len(fold.inputs))
    train, val = rows[~fold.is_val], rows[fold.is_val]
    read = read_scaled(model, fold.inputs[train])
    encoder = model.target_encoder
    was_training, home = encoder.training, next(encoder.parameters()).device
    encoder.eval().to(fold.device)
    try:
        samples = [
            _token_samples(encoder, window_samples(part, read, n_frames=model.config.n_frames, target=target))
            for part, target in (
                (fold.inputs[train], fold.target[train]),
                (fold.inputs[val], fold.target[val]),
                (fold.test_inputs, None),
            )
        ]
        head = AttentiveHead(
            model.config.embed_dim,
            num_heads=model.config.num_heads,
            n_outputs=fold.n_outputs,
            generator=torch.Generator().manual_seed(fold.seed),
        )
        fitted = fit_network(
            head,
            samples[0],
            samples[1],
            task=fold.task,
            settings=settings,
            seed=fold.seed,
            device=fold.device,
            max_epochs=fold.max_epochs,
        )
        values = predict_network(
            fitted, samples[2], task=fold.task, device=fold.device, batch_size=settings.batch_size
        )
    finally:
        encoder.train(was_training).to(home)
    n_trained = sum(p.numel() for p in head.parameters())
    return Prediction(values, {"best_epoch": fitted.best_epoch, "n_trained_weights": n_trained})


def _token_samples(encoder: Encoder, windows: Samples) -> Samples:
    """The same samples as tokens (B, N, D) and whether they exist (B, N), by the frozen encoder."""
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    device = next(encoder.parameters()).device

    @torch.no_grad()
    def encode(numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        x, present, t_r = (t.to(device) for t in windows.read(numbers))
        tokens_BRTD = tokens_on_grid(encoder, x, present, t_r)
        exists_BN = present.repeat_interleave(tokens_BRTD.shape[2], dim=1)
        return tokens_BRTD.flatten(1, 2).float().cpu(), exists_BN.cpu()

    def read(numbers: NDArray[np.int64]) -> tuple[Tensor, ...]:
        new = [int(n) for n in numbers if int(n) not in kept]
        found = dict(kept)
        if new:
            tokens, exists = encode(np.array(new))
            fresh = {n: (tokens[i], exists[i]) for i, n in enumerate(new)}
            found |= fresh
            if tokens[0].nbytes * len(windows) <= KEPT_BYTES:
                kept.update({n: (t.clone(), e.clone()) for n, (t, e) in fresh.items()})
        return tuple(torch.stack(parts) for parts in zip(*(found[int(n)] for n in numbers), strict=True))

    return Samples(
        read=read,
        participant=windows.participant,
        n_participants=windows.n_participants,
        target=windows.target,
    )
