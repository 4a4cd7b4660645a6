"""``python -m lorica``: the command line, where the script ``lorica`` is not on the path."""

from __future__ import annotations

from lorica.cli.main import main

if __name__ == "__main__":
    main()
