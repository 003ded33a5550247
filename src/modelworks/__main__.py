"""The entry of the `modelworks` command and of `python -m modelworks`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C during the imports is as quiet as it is later."""
    try:
        from modelworks.cli import main as run

        run()
    except KeyboardInterrupt:
        print("modelworks: stopped", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
