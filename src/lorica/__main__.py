"""``python -m lorica``: the command line, without the script on the path."""

from __future__ import annotations

from lorica.cli.main import main

if __name__ == "__main__":
    main()
