"""Two models or two runs in pairs, and the gate; ``evals.compare(...)`` is a function of evals/functions.py."""

import sys

from evals.functions import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
