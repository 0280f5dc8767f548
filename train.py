"""Trains a system, as ``zsljax train`` does.

python train.py --config=configs/semantic_softmax.py:digits --workdir=W
"""

import sys

from zsljax.cli.main import main

if __name__ == "__main__":
  main(["train", *sys.argv[1:]])
