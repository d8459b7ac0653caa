"""The real HTTP application over toy engines on a real Ray Serve: what the composition root makes, without a model."""

from typing import Any

from cluster.client import ClusterClient
from cluster.control_plane import ControlPlane
from cluster.fleet import Fleet
from configs.schema import Config
from tests.serve_app.scripted import build_app
from tests.serve_app.toy import toy_model

__all__ = ["build_status_app"]


def build_status_app(client: ClusterClient, config: Config, secret: bytes) -> Any:
    fleet = Fleet(client, config, ControlPlane().deployed).status
    return build_app(client, config, {"toy": toy_model()}, behind_serve=True, fleet=fleet)
