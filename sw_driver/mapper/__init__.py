"""Workloads on cores: operators of a phase, their cycles and bytes in closed form, the report."""
