"""The GPUs that a deployment needs, checked against those that Ray sees: Serve would wait for missing ones for ever."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.load import load_args
from configs.schema import ModelConfig

__all__ = ["check_gpus", "initial_replicas", "missing_gpus", "needed_gpus"]


def check_gpus(document: Mapping[str, Any], num_gpus: float) -> None:
    """Ends the program if the models' first replicas need more GPUs than there are."""
    models = [one for application in document["applications"] for one in load_args(application.get("args", {})).models]
    if message := missing_gpus(models, num_gpus):
        raise SystemExit(f"[gpu] {message}")


def missing_gpus(models: Sequence[ModelConfig], num_gpus: float) -> str:
    """Why the models' first replicas do not fit on so many GPUs; "" if they do."""
    needed = sum(needed_gpus(model) for model in models)
    if needed <= num_gpus:
        return ""
    shares = "; ".join(_explained(model) for model in models if needed_gpus(model))
    return (
        f"resources.num_gpus: {shares}; together {needed:g}, but Ray sees {num_gpus:g} on this machine "
        "(CUDA_VISIBLE_DEVICES hides GPUs, nvidia-smi lists them). Accepted are replicas x tensor_parallel_size x "
        f"resources.num_gpus of at most {num_gpus:g} together; resources.num_gpus 0 computes on the CPU."
    )


def needed_gpus(model: ModelConfig) -> float:
    return initial_replicas(model) * model.tensor_parallel_size * model.resources.num_gpus


def initial_replicas(model: ModelConfig) -> int:
    """The replicas that are started first (initial_replicas in cluster/deploy.py)."""
    return model.num_replicas if model.autoscaling is None else max(1, model.autoscaling.min_replicas)


def _explained(model: ModelConfig) -> str:
    replicas = initial_replicas(model)
    return (
        f"{model.name} needs {needed_gpus(model):g} GPUs ({replicas} replica{'s' * (replicas > 1)} x "
        f"tensor_parallel_size {model.tensor_parallel_size} x num_gpus {model.resources.num_gpus:g})"
    )
