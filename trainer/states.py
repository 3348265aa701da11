"""What a Trainer is doing."""

__all__ = ["TrainerState"]


class TrainerState:
    """What a Trainer is doing. Source: Lightning 1.1, whose values are these texts."""

    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    INTERRUPTED = "INTERRUPTED"
