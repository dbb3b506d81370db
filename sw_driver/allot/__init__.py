"""Bits, and a core, for every layer: the best allotment within budgets, and the proof of it.

:mod:`sw_driver.allot.solve` holds the exact solvers, :mod:`sw_driver.allot.sensitivity` what bits
cost in quality, :mod:`sw_driver.allot.costs` what they cost on the hardware, and
:mod:`sw_driver.allot.allotment` puts them together.
"""
