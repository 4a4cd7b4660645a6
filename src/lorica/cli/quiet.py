"""Keep the libraries below from filling the terminal: their bars and advice, not their errors."""

from __future__ import annotations


def quiet_libraries() -> None:
    """Turn off the loading bars and warnings of diffusers and transformers for this process."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
