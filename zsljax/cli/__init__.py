"""The command line: one file a verb, see ``zsljax.cli.main``."""
