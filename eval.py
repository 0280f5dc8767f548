"""Evaluates a trained run, as ``zsljax eval`` does.

python eval.py --workdir=W
"""

import sys

from zsljax.cli.main import main

if __name__ == "__main__":
  main(["eval", *sys.argv[1:]])
