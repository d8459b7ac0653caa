"""All checks, in the order in which they are printed."""

from collections.abc import Callable

from scripts.manta.doctor import host_checks, model_checks, network_checks, ray_checks
from scripts.manta.doctor.facts import Facts
from scripts.manta.doctor.finding import Finding

__all__ = ["CHECKS", "findings_of"]

CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    host_checks.check_python,
    host_checks.check_packages,
    host_checks.check_cpu,
    host_checks.check_compiler,
    host_checks.check_gpus,
    host_checks.check_memory,
    host_checks.check_shared_memory,
    host_checks.check_open_files,
    host_checks.check_disk,
    host_checks.check_folders,
    host_checks.check_clock,
    network_checks.check_ports,
    network_checks.check_listeners,
    ray_checks.check_environment,
    ray_checks.check_token,
    ray_checks.check_haproxy,
    ray_checks.check_temp_folder,
    ray_checks.check_nodes,
    ray_checks.check_versions,
    ray_checks.check_skew,
    model_checks.check_config,
)


def findings_of(facts: Facts) -> list[Finding]:
    return [*(check(facts) for check in CHECKS), *model_checks.check_models(facts)]
