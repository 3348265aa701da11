"""The bars of a notebook: chosen where there is one, with the right total, by tqdm's widgets.

Neither IPython nor ipywidgets is needed: what tqdm asks of them is small, and played here.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from leyden.handlers import progress_bars
from tests.trainer.tiny import Bare, Tiny, data, trainer


class ZMQInteractiveShell:
    """What a notebook's kernel runs in; the name is what tells it apart."""


class Widget:
    """Any widget: attributes, and children."""

    def __init__(self, **given: Any) -> None:
        self.value: Any = ""
        self.bar_style = ""
        self.layout = SimpleNamespace(width=None, visibility=None)
        self.style = SimpleNamespace(bar_color=None)
        self.children: list[Any] = []
        self.closed = False
        vars(self).update(given)

    def close(self) -> None:
        self.closed = True


def module(name: str, **attributes: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]  # find_spec looks at it
    vars(made).update(attributes)
    return made


def forget_classes() -> None:
    progress_bars._notebook_class.cache_clear()
    sys.modules.pop("tqdm.notebook", None)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Widget]]:
    """A notebook with widgets; what it displays."""
    widgets: list[Widget] = []
    display = module("IPython.display", display=widgets.append)
    monkeypatch.setitem(
        sys.modules,
        "IPython",
        module("IPython", get_ipython=ZMQInteractiveShell, display=display),
    )
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    boxes = dict(HTML=Widget, FloatProgress=Widget, HBox=Widget, VBox=Widget)
    monkeypatch.setitem(sys.modules, "ipywidgets", module("ipywidgets", **boxes))
    forget_classes()
    yield widgets
    forget_classes()


def parts(widget: Widget) -> tuple[str, Any, str]:
    left, bar, right = widget.children
    return left.value.replace("\u2007", " "), bar, right.value.replace("\u2007", " ")


def test_a_run_in_a_notebook(tmp_path: Path, shown: list[Widget]) -> None:
    class Watched(Tiny):
        totals: list[tuple[float, float]] = []

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            _, bar, _ = parts(shown[-1])
            self.totals.append((bar.max, bar.value))

    made = trainer(tmp_path, max_epochs=2, progress_bar_refresh_rate=1, num_sanity_val_steps=2)
    made.fit(Watched(), data(6), data(3))
    sanity, main, *validations = shown
    assert Watched.totals[:2] == [(2, 0), (2, 0)], "the widget has the total from its beginning"
    assert [total for total, _ in Watched.totals[2:]] == [3] * 6
    left, bar, right = parts(main)
    assert left == "Epoch 1: 100%" and (bar.max, bar.value) == (9, 9)
    assert bar.bar_style == "success" and not main.closed
    assert "9/9" in right and "loss=" in right and "loss_epoch=" in right
    assert len(validations) == 2 and sanity.closed and all(one.closed for one in validations)


def test_a_broken_run_ends_red(tmp_path: Path, shown: list[Widget]) -> None:
    class Breaks(Bare):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 4:
                raise RuntimeError("broke")
            return super().training_step(batch, batch_idx)

    made = trainer(tmp_path, max_epochs=1, progress_bar_refresh_rate=1)
    with pytest.raises(RuntimeError, match="broke"):
        made.fit(Breaks(), data(6))
    (main,) = shown
    _, bar, right = parts(main)
    assert bar.bar_style == "danger" and (bar.max, bar.value) == (6, 4) and "4/6" in right


def test_a_notebook_without_widgets_gets_a_moving_line(
    shown: list[Widget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "ipywidgets")
    monkeypatch.setattr(progress_bars.importlib.util, "find_spec", lambda name: None)
    forget_classes()
    output = io.StringIO()  # no terminal, yet it understands a carriage return
    bar = progress_bars.make_bar(file=output, desc="Training")
    progress_bars.expect(bar, 3)
    bar.update(3)
    bar.refresh()
    bar.close()
    assert not shown
    assert output.getvalue().count("\r") >= 2 and "3/3" in output.getvalue()


def test_elsewhere_there_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    class TerminalInteractiveShell:
        """IPython in a terminal."""

    assert not progress_bars._in_notebook()
    monkeypatch.setitem(
        sys.modules, "IPython", module("IPython", get_ipython=TerminalInteractiveShell)
    )
    assert not progress_bars._in_notebook()
