"""Decode steps in DRAM banks: the system, where weights lie, every order with its cycle."""
