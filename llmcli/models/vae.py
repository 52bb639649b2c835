"""A variational autoencoder of texts (Bowman et al. 2016): the code is drawn, and near N(0, I) on the whole.

The encoder gives a Gaussian with a diagonal covariance for each text, so that texts also come from codes drawn at
random, and from those between two texts. Shapes: B rows, S source tokens, Z code width.
"""

from __future__ import annotations

from torch import Tensor, nn

from llmcli.layers.pooling import How
from llmcli.models.autoencoder import Autoencoder, Cell, Posterior, at_least_float32


class VAE(Autoencoder):
    """An `Autoencoder` that also says how sure it is of each dimension of a code."""

    def __init__(
        self,
        *,
        cell: Cell,
        vocab_size: int,
        d_model: int,
        d_code: int,
        n_encoder_layers: int,
        n_decoder_layers: int,
        pooling: How,
        share_embeddings: bool,
        tie_embeddings: bool,
        dropout: float,
    ) -> None:
        super().__init__(
            cell=cell,
            vocab_size=vocab_size,
            d_model=d_model,
            d_code=d_code,
            n_encoder_layers=n_encoder_layers,
            n_decoder_layers=n_decoder_layers,
            pooling=pooling,
            share_embeddings=share_embeddings,
            tie_embeddings=tie_embeddings,
            dropout=dropout,
        )
        if d_code:
            self.log_variance = nn.Linear(self.pool.width, d_code)

    def posterior(self, read: Tensor) -> Posterior:
        return Posterior(at_least_float32(self.mean(read)), at_least_float32(self.log_variance(read)))
