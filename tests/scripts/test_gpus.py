"""Whether a deployment has the GPUs that it needs, on machines with any number of them."""

from typing import Any

import pytest

from scripts.manta.gpus import check_gpus


def document(*models: dict[str, Any]) -> dict[str, Any]:
    named = [{"served_model_name": f"m{number}", "model": "unused", **one} for number, one in enumerate(models)]
    return {"applications": [{"name": "app", "import_path": "a:b", "args": {"models": named}}]}


GPU = {"num_gpus": 1.0}


@pytest.mark.parametrize(
    ("models", "num_gpus"),
    [
        ([{"tensor_parallel_size": 4}], 0),  # on the CPU
        ([{"tensor_parallel_size": 2, "resources": GPU}], 2),
        ([{"num_replicas": 2, "resources": {"num_gpus": 0.5}}], 1),
        ([{"resources": GPU, "autoscaling": {"min_replicas": 1, "max_replicas": 8}}], 1),
        ([{"resources": GPU}, {"resources": GPU}], 2),
    ],
)
def test_enough_gpus_are_accepted(models: list[dict[str, Any]], num_gpus: float) -> None:
    check_gpus(document(*models), num_gpus)


@pytest.mark.parametrize(
    ("models", "num_gpus", "needed"),
    [
        ([{"resources": GPU}], 0, 1),
        ([{"tensor_parallel_size": 2, "num_replicas": 3, "resources": GPU}], 4, 6),
        ([{"resources": GPU, "autoscaling": {"min_replicas": 3}}], 2, 3),
        ([{"resources": GPU, "autoscaling": {"min_replicas": 0}}], 0, 1),
        ([{"resources": GPU}, {"tensor_parallel_size": 2, "resources": GPU}], 2, 3),
    ],
)
def test_missing_gpus_are_said_before_anything_waits(
    models: list[dict[str, Any]], num_gpus: float, needed: int
) -> None:
    with pytest.raises(SystemExit, match=rf"together {needed}, but Ray sees {num_gpus} on this machine"):
        check_gpus(document(*models), num_gpus)


def test_the_message_names_the_model_its_numbers_and_what_is_accepted() -> None:
    with pytest.raises(SystemExit) as ended:
        check_gpus(document({"tensor_parallel_size": 4, "num_replicas": 2, "resources": GPU}), 2)
    message = str(ended.value)
    assert "m0 needs 8 GPUs (2 replicas x tensor_parallel_size 4 x num_gpus 1)" in message
    assert "at most 2 together" in message and "num_gpus 0 computes on the CPU" in message
