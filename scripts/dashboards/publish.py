"""Uploads dashboards to a Grafana server."""

from typing import Any
from urllib.parse import urlsplit

from grafana_api.grafana_api import GrafanaClientError, GrafanaException
from grafana_api.grafana_face import GrafanaFace
from requests import RequestException

__all__ = ["PublishError", "connect", "publish"]

Json = dict[str, Any]

FOLDER_UID = "manta"
TIMEOUT_S = 10.0
NOT_FOUND, CHANGED = 404, 412


class PublishError(Exception):
    """The upload failed; the message says what to do."""


def connect(url: str, token: str) -> GrafanaFace:
    """A client of the server at `url`, which may have a path, for a service account's token. Connects later."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PublishError(f"--url is {url}, it must look like https://grafana.example.org or http://host:3000/path")
    path = parts.path.strip("/")
    return GrafanaFace(
        auth=token,
        host=f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname,
        port=parts.port,
        url_path_prefix=path + "/" if path else "",
        protocol=parts.scheme,
        timeout=TIMEOUT_S,
    )


def publish(grafana: GrafanaFace, boards: list[Json], folder: str, overwrite: bool) -> list[str]:
    """Uploads the dashboards and returns their paths on the server. An existing one is replaced only with `overwrite`,
    since it may have been edited. Raises PublishError.
    """
    try:
        _make_folder(grafana, folder)
        return [_put(grafana, board, overwrite) for board in boards]
    except GrafanaException as error:
        raise PublishError(_advice(error)) from error
    except RequestException as error:
        raise PublishError(f"Grafana does not answer at {grafana.api.url}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise PublishError(
            f"{grafana.api.url} answers, but not as Grafana does; is the path in --url right?"
        ) from error


def _make_folder(grafana: GrafanaFace, title: str) -> None:
    try:
        grafana.folder.get_folder(FOLDER_UID)
    except GrafanaClientError as error:
        if error.status_code != NOT_FOUND:
            raise
        grafana.folder.create_folder(title, uid=FOLDER_UID)


def _put(grafana: GrafanaFace, board: Json, overwrite: bool) -> str:
    try:
        answer = grafana.dashboard.update_dashboard(
            {
                "dashboard": board,
                "folderUid": FOLDER_UID,
                "overwrite": overwrite,
                "message": "python -m scripts.dashboards",
            }
        )
    except GrafanaClientError as error:
        if error.status_code != CHANGED:
            raise
        raise PublishError(
            f"there is a dashboard {board['uid']} already; --overwrite replaces it, and what somebody changed in it"
        ) from error
    return str(answer["url"])


def _advice(error: GrafanaException) -> str:
    if error.status_code == 401:
        return "Grafana does not know this token (401); make one for a service account with the role Editor"
    if error.status_code == 403:
        return "this token may not write dashboards and folders (403); its service account needs the role Editor"
    return f"Grafana refuses: {error.message}"
