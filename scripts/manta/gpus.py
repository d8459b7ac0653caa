"""The GPUs that a deployment needs, checked against those that Ray sees: Serve would wait for missing ones for ever."""

from collections.abc import Mapping
from typing import Any

from configs.load import load_args
from configs.schema import ModelConfig

__all__ = ["check_gpus"]


def check_gpus(document: Mapping[str, Any], num_gpus: float) -> None:
    """Ends the program if the models' first replicas need more GPUs than there are."""
    models = [one for application in document["applications"] for one in load_args(application.get("args", {})).models]
    needed = sum(_needed(model) for model in models)
    if needed <= num_gpus:
        return
    shares = "; ".join(_explained(model) for model in models if _needed(model))
    raise SystemExit(
        f"[gpu] resources.num_gpus: {shares}; together {needed:g}, but Ray sees {num_gpus:g} on this machine "
        "(CUDA_VISIBLE_DEVICES hides GPUs, nvidia-smi lists them). Accepted are replicas x tensor_parallel_size x "
        f"resources.num_gpus of at most {num_gpus:g} together; resources.num_gpus 0 computes on the CPU."
    )


def _needed(model: ModelConfig) -> float:
    return _num_replicas(model) * model.tensor_parallel_size * model.resources.num_gpus


def _num_replicas(model: ModelConfig) -> int:
    """The replicas that are started first (initial_replicas in cluster/deploy.py)."""
    return model.num_replicas if model.autoscaling is None else max(1, model.autoscaling.min_replicas)


def _explained(model: ModelConfig) -> str:
    replicas = _num_replicas(model)
    return (
        f"{model.name} needs {_needed(model):g} GPUs ({replicas} replica{'s' * (replicas > 1)} x tensor_parallel_size "
        f"{model.tensor_parallel_size} x num_gpus {model.resources.num_gpus:g})"
    )
