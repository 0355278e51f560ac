"""Vector quantisation of latents with a learned codebook (Eq. 8 and 9 of arXiv 2512.01292).

Each d-dimensional latent vector is replaced by its nearest codebook entry. The codebook follows the latents either by
gradient (Eq. 8, ``L_codebook = ||sg(z) - z_q||^2``) or by an exponential moving average of the vectors assigned to each
entry; in both cases the encoder is held close by the commitment loss (Eq. 9, ``beta * ||z - sg(z_q)||^2``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ..errors import InputError


class QuantizerOutput(NamedTuple):
    """What a quantiser returns.

    Attributes:
        quantized: (B, d, h, w[, e]), nearest codebook entries; gradients pass straight through to the input.
        indices: (B, h, w[, e]) int64, entry numbers in [0, num_embeddings).
        loss: scalar, codebook plus commitment loss (Eq. 8 + 9).
        perplexity: scalar in [1, num_embeddings], exp of the entropy of the entries' use in this batch.
    """

    quantized: torch.Tensor
    indices: torch.Tensor
    loss: torch.Tensor
    perplexity: torch.Tensor


class VectorQuantizer(nn.Module):
    """Nearest-neighbour quantiser with a codebook that starts from data and revives its dead entries.

    Args:
        num_embeddings: K, the number of codebook entries.
        embedding_dim: d, the length of each entry.
        commitment_cost: beta of Eq. 9.
        update: ``"gradient"`` (Eq. 8) or ``"ema"``.
        decay: decay of the moving averages of use and, with ``"ema"``, of the entries.
        dead_threshold: an entry whose average share of the batch falls below ``dead_threshold / num_embeddings`` is
            replaced by a latent vector of the current batch. 0 disables this.

    Raises:
        InputError: an argument is out of range; the message names it.
    """

    embedding: torch.Tensor
    usage: torch.Tensor
    initialized: torch.Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        commitment_cost: float = 0.25,
        update: str = "ema",
        decay: float = 0.99,
        dead_threshold: float = 0.01,
    ) -> None:
        super().__init__()
        if update not in ("gradient", "ema"):
            raise InputError(f"update must be 'gradient' or 'ema', found {update!r}.")
        if num_embeddings < 2 or embedding_dim < 1:
            raise InputError(
                f"num_embeddings must be at least 2 and embedding_dim at least 1, found {num_embeddings} and "
                f"{embedding_dim}."
            )
        if not 0.0 <= decay < 1.0:
            raise InputError(f"decay must be in [0, 1), found {decay}.")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.commitment_cost = commitment_cost
        self.update = update
        self.decay = decay
        self.dead_threshold = dead_threshold
        entries = torch.randn(num_embeddings, embedding_dim)
        if update == "gradient":
            self.embedding = nn.Parameter(entries)
        else:
            self.register_buffer("embedding", entries)
        # Shares of the batch, not counts: they mean the same at any batch size.
        self.register_buffer("usage", torch.full((num_embeddings,), 1.0 / num_embeddings))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def lookup(self, z: torch.Tensor) -> torch.Tensor:
        """Number of the nearest entry of each latent vector: (B, d, h, w[, e]) → (B, h, w[, e]) int64."""
        flat = z.movedim(1, -1).reshape(-1, self.embedding_dim)
        distances = self.embedding.pow(2).sum(1) - 2.0 * flat @ self.embedding.t()
        return distances.argmin(1).view(z.shape[0], *z.shape[2:])

    def embed(self, indices: torch.Tensor) -> torch.Tensor:
        """Entries of the given numbers: (B, h, w[, e]) int64 → (B, d, h, w[, e])."""
        return F.embedding(indices, self.embedding).movedim(-1, 1)

    @torch.no_grad()
    def quantize(self, z: torch.Tensor) -> torch.Tensor:
        """Nearest entries without gradient or update: (B, d, h, w[, e]) → same shape."""
        return self.embed(self.lookup(z))

    def forward(self, z: torch.Tensor) -> QuantizerOutput:
        """Quantise ``z`` (B, d, h, w[, e]); in train mode the codebook is initialised, updated and revived as well."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            flat = z.detach().movedim(1, -1).reshape(-1, self.embedding_dim)
            if self.training and not self.initialized:
                self.embedding.data.copy_(self._draw(flat, self.num_embeddings))
                self.initialized.fill_(True)
            indices = self.lookup(z.detach())
            quantized = self.embed(indices)
            loss = self.commitment_cost * F.mse_loss(z, quantized.detach())
            if self.update == "gradient":
                loss = loss + F.mse_loss(quantized, z.detach())
            counts = torch.bincount(indices.flatten(), minlength=self.num_embeddings).to(z.dtype)
            if self.training:
                counts = self._update(flat, indices.flatten(), counts)
            share = counts / counts.sum()
            perplexity = torch.exp(-(share * share.clamp_min(1e-10).log()).sum())
            return QuantizerOutput(z + (quantized - z).detach(), indices, loss, perplexity)

    @torch.no_grad()
    def _update(self, flat: torch.Tensor, indices: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Move usage (and, with ``"ema"``, the entries) towards this batch of all ranks; returns the global counts."""
        sums = torch.zeros_like(self.embedding).index_add_(0, indices, flat)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.usage.mul_(self.decay).add_(counts / counts.sum(), alpha=1.0 - self.decay)
        if self.update == "ema":
            # Entries move in proportion to their use, so a single vector hardly moves a rarely used one.
            hit = counts > 0
            rate = ((1.0 - self.decay) * (counts / counts.sum()) / self.usage.clamp_min(1e-10)).clamp_max(1.0)[hit]
            means = sums[hit] / counts[hit, None]
            self.embedding[hit] += rate[:, None] * (means - self.embedding[hit])
        dead = self.usage < self.dead_threshold / self.num_embeddings
        if self.dead_threshold > 0 and dead.any():
            self.embedding.data[dead] = self._draw(flat, int(dead.sum()))
            self.usage[dead] = 1.0 / self.num_embeddings
        return counts

    @staticmethod
    def _draw(flat: torch.Tensor, number: int) -> torch.Tensor:
        """``number`` latent vectors of rank 0's batch, a little jittered, the same on every rank."""
        drawn = flat[torch.randint(len(flat), (number,), device=flat.device)]
        # Masks are mostly background, so a draw repeats itself: jitter keeps the entries apart.
        drawn = drawn + 0.01 * flat.std().nan_to_num(1.0) * torch.randn_like(drawn)
        if dist.is_available() and dist.is_initialized():
            drawn = drawn.contiguous()
            dist.broadcast(drawn, src=0)
        return drawn
