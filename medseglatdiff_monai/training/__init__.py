"""Training: the stages' trainers, their handlers, batches, losses and checkpoints."""

from .run import train

__all__ = ["train"]
