"""The command ``python -m zsljax``, another way to type ``zsljax``."""

from zsljax.cli.main import main

if __name__ == "__main__":
  main()
