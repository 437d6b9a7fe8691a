"""Train one agent on one environment: python train.py --agent ddqn --env CartPole-v1.

Equivalent to `semigradient train …`.
"""

from __future__ import annotations

import sys

from semigradient.commands import train

if __name__ == "__main__":
    raise SystemExit(train(sys.argv[1:]))
