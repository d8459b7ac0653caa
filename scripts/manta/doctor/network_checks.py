"""Checks of ports: those that a start needs, and what of ours listens where."""

import ipaddress
from collections.abc import Iterable

from scripts.manta.doctor.facts import Facts, Listener
from scripts.manta.doctor.finding import Finding, fault, ok, warning

__all__ = ["check_listeners", "check_ports"]

UNKNOWN = "not known on this system, which has no /proc/net/tcp"


def check_ports(facts: Facts) -> Finding:
    network = facts.network
    if network.listeners is None:
        return ok("ports", UNKNOWN)
    taken = [one for one in network.listeners if one.port in network.ports and _collides(one, network.host)]
    foreign = [one for one in taken if not one.is_ours]
    if foreign:
        holders = "; ".join(_holder(one, network.ports[one.port]) for one in _by_port(foreign))
        advice = "end what holds it, or take another: --port, --dashboard-port, `ray start --port`"
        level = warning if all(one.port in network.cluster_ports for one in foreign) else fault
        return level("ports", holders, advice)
    if taken:
        holders = "; ".join(_holder(one, network.ports[one.port]) for one in _by_port(taken))
        return warning("ports", f"{holders}: a start is running", "Ctrl-C there, or take other ports for a second one")
    return ok("ports", ", ".join(f"{port} ({what})" for port, what in sorted(network.ports.items())) + " are free")


def check_listeners(facts: Facts) -> Finding:
    if facts.network.listeners is None:
        return ok("listeners", UNKNOWN)
    ours = [one for one in facts.network.listeners if one.is_ours]
    if not ours:
        return ok("listeners", "nothing of Ray, Serve or HAProxy listens here")
    everywhere = _by_port(one for one in ours if _is_everywhere(one))
    if not everywhere:
        return ok("listeners", f"{_listed(_by_port(ours))}; none on all interfaces")
    elsewhere = f"; {len(ours) - len(everywhere)} on one address"
    unprotected = [one for one in everywhere if not _is_protected(one, facts)]
    if not unprotected:
        return ok("listeners", f"on all interfaces, with a token or API keys: {_listed(everywhere)}{elsewhere}")
    advice = (
        'close them to other machines (a firewall), and start Ray with RAY_AUTH_MODE=token (eval "$(manta env)"), '
        "which also moves HAProxy's statistics to loopback"
    )
    return warning("listeners", f"on all interfaces, unprotected: {_listed(unprotected)}{elsewhere}", advice)


def _is_protected(listener: Listener, facts: Facts) -> bool:
    """By Ray's token, or being the API, which has its own keys."""
    if "haproxy" in listener.program:
        return listener.port in facts.network.ports
    return (listener.auth_mode or facts.ray.auth_mode) == "token"


def _collides(listener: Listener, host: str) -> bool:
    """Whether it takes the port from who listens on `host`, or on loopback as Ray's dashboard does."""
    addresses = {"127.0.0.1" if host == "localhost" else host, "127.0.0.1"}
    return _is_everywhere(listener) or listener.address in addresses or host in ("0.0.0.0", "::")


def _is_everywhere(listener: Listener) -> bool:
    return ipaddress.ip_address(listener.address).is_unspecified


def _holder(listener: Listener, what: str) -> str:
    who = f"{listener.program} (process {listener.pid})" if listener.pid else "another user's process"
    return f"port {listener.port} ({what}) is held by {who}"


def _listed(listeners: Iterable[Listener]) -> str:
    named = [f"{one.program} {_at(one)}" for one in listeners]
    return ", ".join(named[:8]) + f" and {len(named) - 8} more" * (len(named) > 8)


def _at(listener: Listener) -> str:
    return f"[{listener.address}]:{listener.port}" if ":" in listener.address else f"{listener.address}:{listener.port}"


def _by_port(listeners: Iterable[Listener]) -> list[Listener]:
    """Sorted, each (address, port) once: processes may share one."""
    return [pair[1] for pair in sorted({(one.port, one.address): one for one in listeners}.items())]
