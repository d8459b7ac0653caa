"""Response shapes of /status: the summed status of each model's replicas, and its fleet. Filled from engine types."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from engine.runtime.fleet_status import MigrationReason, ReplicaPhase, RoutingReason

__all__ = ["ModelFleet", "ModelStatus", "StatusList"]


class _Shape(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class ModelStatus(_Shape):
    """The summed status of a model's replicas."""

    model: str
    max_model_len: int  # tokens, prompt and answer together
    num_running: int  # sequences that hold blocks
    num_waiting: int
    num_waiting_tokens: int
    num_prefill_tokens: int
    num_blocks: int
    num_free_blocks: int
    first_token_s: float  # mean of the last half minute, of the slowest replica; 0: no tokens
    collective: str  # backend of the ranks' all-reduce: shared memory, nccl or gloo; "": one rank
    kernels: str  # of its replicas; several where machines differ
    num_preemptions: int  # since the engines have started, as the next four
    num_steps: int
    num_generated_tokens: int
    num_prompt_tokens: int  # of the sequences that have begun
    num_cached_tokens: int  # of these, found in the prefix cache


class Replica(_Shape):
    """A replica, as this ingress sees it."""

    replica_id: str
    state: ReplicaPhase
    engine: ModelStatus | None  # null: this ingress has no connection to it
    step_age_s: float  # since its engine has finished a step; 0: it has no work
    routed: dict[RoutingReason, int]  # requests that this ingress has sent there, by reason


class Migration(_Shape):
    """A request that left its replica."""

    at_s: float  # unix seconds
    replica_id: str  # that it left
    reason: MigrationReason


class Scaling(_Shape):
    """Serve's autoscaler wants another number of replicas."""

    at_s: float  # unix seconds
    before: int
    after: int


class Autoscaling(_Shape):
    min_replicas: int
    max_replicas: int
    target_replicas: int | None  # what Serve wants; null: its controller did not answer
    wanted: dict[str, float]  # replicas that each target asks for now, before bounds and delays
    events: list[Scaling]  # the latest, in order of time


class ModelFleet(_Shape):
    """The replicas of a model, and what this ingress has done with them."""

    model: str
    routing_policy: str
    replicas: list[Replica]
    num_unplaced: int  # requests of this ingress that wait for a replica
    num_migrations: int
    migrations: list[Migration]  # the latest, in order of time
    autoscaling: Autoscaling | None  # null: a fixed number of replicas


class StatusList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelStatus]  # of the models that have an engine now
    fleet: list[ModelFleet] = []  # of all models; empty without a cluster
