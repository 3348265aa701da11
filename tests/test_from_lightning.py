"""The table for movers in docs/from-lightning.md, against the code and the Trainer of 2.6.6."""

import re
from pathlib import Path

import pytest

import leyden.handlers
from leyden.assembly import ASSEMBLY
from leyden.config import ALIASES, CHECKS
from tests.test_docs import ARGUMENTS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "from-lightning.md"
ROWS = {
    name: (made, today, differs)
    for name, made, today, differs in re.findall(
        r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", PAGE.read_text(encoding="utf-8"), re.M
    )
}
#: The arguments of pytorch_lightning.Trainer 2.6.6.
OF_2_6 = set(
    """
    accelerator strategy devices num_nodes precision logger callbacks fast_dev_run max_epochs
    min_epochs max_steps min_steps max_time limit_train_batches limit_val_batches limit_test_batches
    limit_predict_batches overfit_batches val_check_interval check_val_every_n_epoch
    num_sanity_val_steps log_every_n_steps enable_checkpointing enable_progress_bar
    enable_model_summary accumulate_grad_batches gradient_clip_val gradient_clip_algorithm
    deterministic benchmark inference_mode use_distributed_sampler profiler detect_anomaly barebones
    plugins sync_batchnorm reload_dataloaders_every_n_epochs default_root_dir enable_autolog_hparams
    model_registry
    """.split()
)


def test_every_argument_has_one_row_in_the_order_of_the_signature() -> None:
    assert list(ROWS) == list(CHECKS)


@pytest.mark.parametrize("name", CHECKS)
def test_what_became_of_an_argument_in_2_x(name: str) -> None:
    _, today, _ = ROWS[name]
    assert (today == "the same") == (name in OF_2_6 and name != "accelerator"), today
    # Names of arguments, as opposed to those of classes, methods and values.
    named = re.findall(r"(?<![\w.(])(\w+)=(?=[,`]|'\w)", today) + re.findall(
        r"`(enable\w+)`", today
    )
    assert set(named) <= OF_2_6


def test_handlers_that_are_named_are_there() -> None:
    named = {
        word
        for made, _, _ in ROWS.values()
        for word in re.findall(r"\b[A-Z][a-z]+[A-Z]\w+\b", made)
    }
    assert "GradientClipping" in named
    assert named <= set(leyden.handlers.__all__)


def test_names_of_2_x_that_are_taken_are_in_the_table_or_in_the_text() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in ALIASES if f"`{name}`" not in text] == []


@pytest.mark.slow
def test_what_the_assembly_makes_of_an_argument_is_what_its_row_says() -> None:
    made = ARGUMENTS.handlers_of()
    hardware = set(ARGUMENTS.GROUPS[ARGUMENTS.HARDWARE])
    checked = 0
    for feature in ASSEMBLY:
        for name in set(feature.arguments) - hardware:
            assert made[name], f"{name} makes nothing with its example in tools/argument_page.py"
            assert ROWS[name][0] == ", ".join(made[name])
            checked += 1
    assert checked >= 12
