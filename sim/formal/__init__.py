"""Formal proofs about emitted Verilog, with no solver but the one inside Yosys.

``python -m sim.formal`` proves the catalogue; :func:`proofs` and :meth:`Proof.run` are the same for
programs. What is proven: :mod:`sim.formal.rules` (streams), :mod:`sim.formal.cones` (what depends
on what), :mod:`sim.formal.jobs` (conservation, progress, cycles), :mod:`sim.formal.datapath` and
:mod:`sim.formal.steps` (the arithmetic); how: :mod:`sim.formal.prove`.
"""

from sim.formal.catalogue import PARTS, Proof, Row, proof, proofs
from sim.formal.prove import Monitor, Result, Trace, bounded, induction

__all__ = [
    "PARTS",
    "Monitor",
    "Proof",
    "Result",
    "Row",
    "Trace",
    "bounded",
    "induction",
    "proof",
    "proofs",
]
