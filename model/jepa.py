"""The joint-embedding predictive architecture: predict the target encoder's tokens from the context's.

B scans, R regions, L frames, N tokens, K context tokens, M targets, D embed_dim; target_dim is D, or the
frames of a patch if the signal itself is predicted (model.predicts, a masked autoencoder).
Source: Dong et al. 2024, "Brain-JEPA", NeurIPS, arXiv 2409.19407.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bjepa.model.blocks import Block
from bjepa.model.config import ModelConfig
from bjepa.model.encoder import Encoder, init_weights, pieces_of
from bjepa.model.predictor import Predictor
from bjepa.model.tokens import TokenList
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    from bjepa.model.about import About

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
    normed_targets : bool
        Whether targets are normed over features (objective.target_norm), as released.
    about : About or None
        What the folder it was read from tells beside the network: origin, atlas, scaling, card.
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
        self.normed_targets = True
        self.about: About | None = None
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

    def predict(
        self,
        x_BRL: Tensor,
        context_index: Tensor | TokenList,
        target_index: Tensor | TokenList,
        *,
        t_r: Tensor | None = None,
    ) -> Tensor:
        """What the predictor makes of the context: (B, M, target_dim) float32."""
        context = TokenList.of(context_index)
        context_BKD = self.context_encoder(x_BRL, context, t_r=t_r)
        predicted: Tensor = self.predictor(context_BKD, context, target_index, t_r=t_r)
        return predicted

    @torch.no_grad()
    def targets(
        self,
        x_BRL: Tensor,
        target_index: Tensor | TokenList,
        *,
        visible_index: Tensor | TokenList | None = None,
        t_r: Tensor | None = None,
    ) -> Tensor:
        """What is to be predicted, at the target tokens: (B, M, target_dim) float32, zeros at padding.

        "latent": the target encoder on the whole scan (the tokens of `visible_index`, where given), normed
        over features unless `normed_targets` is false. "signal": the frames of the patch.
        """
        target = TokenList.of(target_index)
        if self.config.predicts == "signal":
            pieces = pieces_of(x_BRL.float(), self.config.patch_size)
            return target.unpack(pieces.index_select(0, target.number(self.config.n_tokens)))
        tokens_BMD: Tensor = self.target_encoder(x_BRL, visible_index, at=target, t_r=t_r)
        if not self.normed_targets:
            return tokens_BMD
        normed_nD = F.layer_norm(target.pack(tokens_BMD), tokens_BMD.shape[-1:], eps=TARGET_NORM_EPS)
        return target.unpack(normed_nD)

    def forward(
        self,
        x_BRL: Tensor,
        context_index: Tensor | TokenList,
        target_index: Tensor | TokenList,
        *,
        visible_index: Tensor | TokenList | None = None,
        t_r: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(predicted, targets), each (B, M, target_dim) float32, zeros at padding.

        Parameters
        ----------
        x_BRL : (B, n_rois, n_frames) float32
        context_index, target_index : (B, K), (B, M) int64
            Token numbers, -1 for padding.
        visible_index : (B, N') int64, optional
            The tokens that exist, sorted; None: all.
        t_r : (B,) float32, optional
            Seconds between frames; needed if model.time_position is "seconds".
        """
        context, target = TokenList.of(context_index), TokenList.of(target_index)
        return (
            self.predict(x_BRL, context, target, t_r=t_r),
            self.targets(x_BRL, target, visible_index=visible_index, t_r=t_r),
        )

    def compile_blocks(self) -> None:
        """Compile the blocks with torch.compile, for any number of tokens; the mathematics stays."""
        for part in self.modules():
            if isinstance(part, Block):
                part.compile_parts()

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Keep only the input of each trained block for the gradient, and run it again: less memory."""
        self.context_encoder.recompute = self.predictor.recompute = enabled

    # Sharing. The work is done in model/hub.py, which knows this module.

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model folder: weights, description, gradients, `about`, and a model card."""
        from bjepa.model.hub import save_pretrained

        save_pretrained(self, folder)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> "JEPA":
        """`load_model`: a run folder, a model folder, or `owner/name` of the Hugging Face Hub."""
        from bjepa.model.hub import load_model

        return load_model(source, revision=revision)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = True,
        commit_message: str = "Model folder",
        token: str | None = None,
    ) -> str:
        """Put the model folder on the Hugging Face Hub as `owner/name`; the address of the commit.

        A new model is private unless said otherwise; an existing one stays as it is. Needs `bjepa[hub]`.
        """
        from bjepa.model.hub import push_to_hub

        return push_to_hub(self, name, private=private, message=commit_message, token=token)
