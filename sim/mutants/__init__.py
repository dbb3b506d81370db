"""What mutation testing breaks: one module a core, found by its name, and what cores share."""
