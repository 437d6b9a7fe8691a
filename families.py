"""What each family registers with the shared code, by name.

This module is the top layer and may name all others; the shared code knows only the registries.
"""

from __future__ import annotations

from semigradient import registry


def register() -> None:
    """Fill the registries; the modules are imported on first use."""
    domains = "semigradient.domains"
    registry.NETWORKS.add("blocks", f"{domains}.molecules.molecule_networks:actor_critic")
    registry.NETWORKS.add("coconet", f"{domains}.music.music_networks:actor_critic")
    registry.MODELS.add("coconet", f"{domains}.music.trained_coconet:conditionals")
    registry.REWARDS.add("proxy", f"{domains}.molecules.binding:published")
    registry.REWARDS.add("proxy_x_WT", f"{domains}.molecules.binding:published_transposed")
    registry.REWARDS.add("fitted", f"{domains}.molecules.binding:fitted")
    registry.REWARDS.add("vina", f"{domains}.molecules.docking:scores")
    registry.POOLS.add("local", "semigradient.envs.molecules.rewards:processes")
    registry.POOLS.add("ray", "semigradient.experiments.ray_engine:pool")
    registry.RUNNERS.add("local", "semigradient.experiments.engines:run_local")
    registry.RUNNERS.add("ray", "semigradient.experiments.ray_engine:run_ray")
