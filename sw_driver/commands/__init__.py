"""Verbs of the command line, a module each; none imports anything heavy before it runs."""
