"""The joint-embedding predictive architecture: predict the target encoder's tokens from the context's.

B scans, R regions, L frames, N tokens, K context tokens, M targets, D embed_dim.
Source: Dong et al. 2024, "Brain-JEPA", NeurIPS, arXiv 2409.19407.
"""

import copy

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bjepa.model.config import ModelConfig
from bjepa.model.encoder import Encoder, init_weights
from bjepa.model.predictor import Predictor
from bjepa.model.tokens import gather_tokens
from bjepa.preproc.errors import InputError

TARGET_NORM_EPS = 1e-5  # of the parameter-free norm; with 1e-6 targets move by 1.2e-5


class JEPA(nn.Module):
    """Context encoder, predictor, and the target encoder that follows the context encoder slowly.

    Parameters
    ----------
    config : ModelConfig
    gradients : (n_rois, n_gradients) array
        The gradient atlas, rows in the order of the regions; used as float32.
    generator : torch.Generator, optional
        Draws the weights. Without it the process-wide generator does.

    Attributes
    ----------
    context_encoder, target_encoder : Encoder
        `(x, index=None)`: x (B, R, L) float32 -> (B, N or K, D).
    predictor : Predictor
        `(tokens, context_index, target_index)` -> (B, M, D).
    atlas_sha256 : str or None
        Of the atlas it was trained on, where known.
    """

    def __init__(
        self,
        config: ModelConfig,
        gradients: ArrayLike | Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        table = torch.as_tensor(gradients).detach().to(torch.float32, copy=True)  # (R, C)
        if tuple(table.shape) != (config.n_rois, config.n_gradients):
            raise InputError(
                f"The gradient table is {' x '.join(map(str, table.shape))}, the model needs "
                f"{config.n_rois} regions x {config.n_gradients} gradients.",
                hint="Give the gradients of the same atlas, one row a region.",
            )
        if not table.is_meta and not bool(torch.isfinite(table).all()):
            raise InputError("The gradient table has non-finite values.", hint="Run bjepa-gradients again.")
        self.config = config
        self.atlas_sha256: str | None = None
        self.context_encoder = Encoder(config, table)
        self.predictor = Predictor(config, table)
        init_weights(self.context_encoder, std=config.init_std, generator=generator)
        init_weights(self.predictor, std=config.init_std, generator=generator)
        weight = self.context_encoder.patch_embed.proj.weight
        nn.init.normal_(weight, std=config.patch_init_std, generator=generator)
        nn.init.normal_(self.predictor.mask_token, std=config.init_std, generator=generator)
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False)

    @property
    def gradients(self) -> Tensor:
        """The gradient atlas, (n_rois, n_gradients) float32."""
        return self.context_encoder.positions.gradients

    def predict(self, x_BRL: Tensor, context_index_BK: Tensor, target_index_BM: Tensor) -> Tensor:
        """What the predictor makes of the context: (B, M, D) float32."""
        context_BKD = self.context_encoder(x_BRL, context_index_BK)
        predicted: Tensor = self.predictor(context_BKD, context_index_BK, target_index_BM)
        return predicted

    @torch.no_grad()
    def targets(self, x_BRL: Tensor, target_index_BM: Tensor) -> Tensor:
        """The target encoder on the whole scan, normed over features, at the targets: (B, M, D) float32."""
        tokens_BND = self.target_encoder(x_BRL)
        normalised = F.layer_norm(tokens_BND, (tokens_BND.shape[-1],), eps=TARGET_NORM_EPS)
        return gather_tokens(normalised, target_index_BM)

    def forward(
        self, x_BRL: Tensor, context_index_BK: Tensor, target_index_BM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(predicted, targets), each (B, M, D) float32."""
        return self.predict(x_BRL, context_index_BK, target_index_BM), self.targets(x_BRL, target_index_BM)
