"""`python -m approval --home DIR`: the web pages of one home, in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from approval.serving import log_to_stderr, run
from broker.domain.errors import BrokerError, Code
from broker.settings import Home


def main() -> int:
    """Serve; 0 after SIGTERM, 1 for what cannot work as it is set up, 75 for what may work later."""
    parser = argparse.ArgumentParser(prog="python -m approval", description=__doc__, allow_abbrev=False)
    parser.add_argument("--home", type=Path, required=True, help="the deployment's folder")
    home = Home(parser.parse_args().home)
    log_to_stderr()
    try:
        run(home)
    except BrokerError as error:
        print(f"wicketgate: {error.detail}", file=sys.stderr)
        return 75 if error.code is Code.UNAVAILABLE else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
