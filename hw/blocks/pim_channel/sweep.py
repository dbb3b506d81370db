"""Pending."""

SWEEP = ()
