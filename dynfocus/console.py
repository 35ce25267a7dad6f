"""What the command line keeps off its terminal."""

import warnings


def quiet_transformers() -> None:
    """No progress bars and advice of transformers between our lines; its errors reach us as exceptions."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # peft calls it by old names
