"""Models on systems of cores, buffers and one DRAM channel: exact schedules, and the best of them.

:func:`sw_driver.system.report.map_model_on_system` is ``rtlgen map --system``;
``docs/system.md`` has the model.
"""
