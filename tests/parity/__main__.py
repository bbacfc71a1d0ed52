"""``python -m parity``: measure every check and write evals/tolerances.json."""

from __future__ import annotations

import json
import sys

from tqdm import tqdm

from evals.engine.protocol_page import TOLERANCES
from parity import checks
from vgt.core import files


def main() -> int:
    rows, failed = [], 0
    for check in tqdm(checks(), file=sys.stderr):
        difference = float(check.measure())
        rows.append(
            {
                "protocol": check.protocol,
                "against": check.against,
                "inputs": check.inputs,
                "unit": check.unit,
                "limit": check.limit,
                "difference": difference,
            }
        )
        if not difference <= check.limit:
            failed += 1
            print(f"{check.protocol} against {check.against}: {difference} > {check.limit}", file=sys.stderr)
    files.write_text(TOLERANCES, json.dumps(rows, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
