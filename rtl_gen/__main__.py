"""``python -m rtl_gen`` is ``rtlgen``."""

from rtl_gen.command import main

main(prog_name="rtlgen")
