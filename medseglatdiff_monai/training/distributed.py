"""Several processes, started by torchrun: what the multi-GPU overlays of the bundles call.

Each process computes its share of every batch on its own device; gradients are averaged by
``DistributedDataParallel``, g = 1/P · Σ_p g_p, and codebooks and latent statistics are reduced by their own modules.
NCCL is used where CUDA is, gloo elsewhere, so that the same overlay runs on GPUs and, for tests, on CPU cores.
"""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist
from monai.utils import set_determinism
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError

# Makes torchrun open a new store, at a new port, for each round of processes.
FRESH_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


def local_device() -> torch.device:
    """Device of this process: the GPU of its local rank, or the CPU where there is no CUDA.

    Raises:
        InputError: the process was not started by torchrun, or there are more processes than GPUs.
    """
    if "LOCAL_RANK" not in os.environ:
        raise InputError(
            "LOCAL_RANK is not set: the multi-GPU overlays run under torchrun. Start them with 'torchrun "
            "--nproc_per_node=N -m monai.bundle run ...', or leave the overlay out."
        )
    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = int(os.environ["LOCAL_RANK"])
    if rank >= torch.cuda.device_count():
        raise InputError(
            f"Process {rank} of this machine has no GPU, there are {torch.cuda.device_count()}. Start torchrun with "
            f"--nproc_per_node={torch.cuda.device_count()} or fewer."
        )
    return torch.device("cuda", rank)


def in_process_group() -> bool:
    """Whether this is one of several processes that have joined."""
    return dist.is_available() and dist.is_initialized()


def process_rank() -> int:
    """Rank of this process, 0 where there is only one."""
    return dist.get_rank() if in_process_group() else 0


def start(seed: int = 0) -> None:
    """Join the process group, unless that has been done, and seed this process.

    Args:
        seed: the same on every rank, so that networks and their averaged copies start from the same weights
            everywhere; the random numbers of training are seeded for each rank when an epoch starts.
    """
    device = local_device()
    # In a SLURM job Ignite takes the ranks from SLURM, which counts torchrun's own processes, one per node.
    os.environ.pop("SLURM_JOB_ID", None)
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and os.environ.get(FRESH_STORE) != "1":
        # Torchrun keeps one store for all restarts (seen in PyTorch 2.13): a restarted process that finds the address
        # of one that died waits for it. Torchrun reads the variable, so setting it here would be too late.
        warnings.warn(f"Set {FRESH_STORE}=1 for torchrun: without it a restart may hang.", stacklevel=2)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(backend="nccl" if device.type == "cuda" else "gloo")
    set_determinism(seed=seed)
    # MONAI's switch also forbids operations without a deterministic version, such as upsampling on CUDA.
    torch.use_deterministic_algorithms(False)


def stop() -> None:
    """Leave the process group; nothing happens where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def distribute(network: nn.Module) -> nn.Module:
    """``network``, already on this process's device, wrapped so that gradients are averaged over all processes."""
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)
