"""The events of a run: ignite's own for the loop, ours for what happens in a training iteration.

Where each event fires (a test records a run and compares it with this listing)::

    TrainerEvents.FIT_STARTED               model on its device, optimizers made
    TrainerEvents.PRETRAIN_STARTED
    TrainerEvents.CHECKPOINT_LOADED         where a checkpoint was restored
    TrainerEvents.PRETRAIN_COMPLETED
    TrainerEvents.SANITY_CHECK_STARTED
    TrainerEvents.SANITY_CHECK_COMPLETED
    Events.STARTED                          the training loop begins
      for each epoch:
        Events.EPOCH_STARTED
        for each batch:
          Events.GET_BATCH_STARTED            once more where the data ends: no batch follows
          Events.GET_BATCH_COMPLETED
          Events.ITERATION_STARTED
            # the training step, once an optimizer and split:
            TrainerEvents.FORWARD_COMPLETED           state.loss
            TrainerEvents.BACKWARD_STARTED
            TrainerEvents.BACKWARD_COMPLETED
            # only where the accumulated gradients are complete:
            TrainerEvents.GRADIENTS_READY         synchronised, unscaled: track, check and clip here
            TrainerEvents.OPTIMIZER_STEP_STARTED
            TrainerEvents.OPTIMIZER_STEP_COMPLETED
            TrainerEvents.ZERO_GRAD_STARTED           gradients are still there
          Events.ITERATION_COMPLETED                  batch-end hooks, then metrics
          TrainerEvents.VALIDATION_STARTED            where validation is due
          TrainerEvents.VALIDATION_COMPLETED
          TrainerEvents.CHECKPOINT_SAVED              whenever a handler wrote one
        Events.EPOCH_COMPLETED                  epoch-end hooks, metrics, validation, schedulers
        TrainerEvents.VALIDATION_STARTED
        TrainerEvents.VALIDATION_COMPLETED
    Events.COMPLETED | Events.INTERRUPT | Events.TERMINATE | Events.EXCEPTION_RAISED
    TrainerEvents.TRAINING_ENDED            however the loop ended: done, stopped, Ctrl-C, exception
    TrainerEvents.FIT_COMPLETED             also after Ctrl-C; not after an exception
"""

from ignite.engine.events import (
    CallableEventWithFilter,
    EventEnum,
    Events,
    EventsList,
    RemovableEventHandle,
    State,
)

__all__ = [
    "CallableEventWithFilter",
    "EventEnum",
    "Events",
    "EventsList",
    "RemovableEventHandle",
    "State",
    "TrainerEvents",
]


class TrainerEvents(EventEnum):
    """What happens around and inside a training iteration; see the listing above.

    The counter of the optimizer events, for filters such as ``every=``, is the number of the
    optimizer step: 1-based, one for each accumulation group, the same before the step
    (``state.coming_step``) and after it (``state.optimizer_steps``), for all optimizers of a batch.
    """

    FIT_STARTED = "fit_started"
    PRETRAIN_STARTED = "pretrain_started"
    PRETRAIN_COMPLETED = "pretrain_completed"
    SANITY_CHECK_STARTED = "sanity_check_started"
    SANITY_CHECK_COMPLETED = "sanity_check_completed"
    FORWARD_COMPLETED = "forward_completed"
    BACKWARD_STARTED = "backward_started"
    BACKWARD_COMPLETED = "backward_completed"
    GRADIENTS_READY = "gradients_ready"
    OPTIMIZER_STEP_STARTED = "optimizer_step_started"
    OPTIMIZER_STEP_COMPLETED = "optimizer_step_completed"
    ZERO_GRAD_STARTED = "zero_grad_started"
    VALIDATION_STARTED = "validation_started"
    VALIDATION_COMPLETED = "validation_completed"
    CHECKPOINT_SAVED = "checkpoint_saved"
    CHECKPOINT_LOADED = "checkpoint_loaded"
    TRAINING_ENDED = "training_ended"
    FIT_COMPLETED = "fit_completed"
