"""File names of checkpoints: templates, versions, and the directory they go to."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "DEFAULT_TEMPLATE",
    "check_template",
    "default_directory",
    "fill",
    "free_name",
    "is_remote",
    "join",
]

DEFAULT_TEMPLATE = "{epoch}-{step}"

# {name} or {name:format}
_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


def check_template(template: str) -> None:
    """Refuse a template that no metric could fill.

    Raises:
        ValueError: when a format such as ``.2q`` fits neither whole nor real numbers, or a brace is
            left over.
    """
    for found in _FIELD.finditer(template):
        spec = found.group(2) or ""
        if not (_formats(0, spec) or _formats(0.0, spec)):
            raise ValueError(
                f"filename={template!r}: {found.group(0)} has the format {spec!r}, which no "
                "number has: "
                "write {name} or, for example, {name:.2f}"
            )
    rest = _FIELD.sub("", template)
    if "{" in rest or "}" in rest:
        raise ValueError(
            f"filename={template!r} has a brace without its partner or name: write {{name}} or "
            f"{{name:.2f}}"
        )


def fill(template: str | None, metrics: Mapping[str, Any], *, insert_names: bool = True) -> str:
    """Fill ``{name}`` and ``{name:format}`` with values; a name that was not logged becomes 0.

    Args:
        template: the text; empty or None is :data:`DEFAULT_TEMPLATE`.
        metrics: values by name: numbers or 0-dim tensors.
        insert_names: write ``name=value`` rather than the value alone.

    Example:
        >>> fill("{epoch:03d}-{val_loss:.2f}", {"epoch": 3, "val_loss": 0.1234})
        'epoch=003-val_loss=0.12'
        >>> fill("{epoch}-{val_loss:.2f}", {"epoch": 3}, insert_names=False)
        '3-0.00'
    """

    def value_of(found: re.Match[str]) -> str:
        name, spec = found.group(1), found.group(2) or ""
        value = metrics.get(name, 0)
        if hasattr(value, "item"):
            value = value.item()
        try:
            text = format(value, spec)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"filename={template!r}: {found.group(0)} cannot show {name} = {value!r} "
                f"({error}): use a format for a {type(value).__name__}"
            ) from error
        return f"{name}={text}" if insert_names else text

    return _FIELD.sub(value_of, template or DEFAULT_TEMPLATE)


def free_name(name: Callable[[int | None], str], taken: Callable[[str], bool]) -> str:
    """Return the first of ``name(None), name(0), name(1), ...`` that is not taken."""
    path, version = name(None), 0
    while taken(path):
        path = name(version)
        version += 1
    return path


def default_directory(trainer: Any) -> str:
    """Return where checkpoints go when no directory was named.

    Below the logger's ``save_dir/name/version``, where there is a logger; otherwise below
    ``weights_save_path``. A ``weights_save_path`` that differs from ``default_root_dir`` takes the
    place of ``save_dir``.
    """
    root = str(trainer.default_root_dir)
    weights = str(getattr(trainer, "weights_save_path", None) or root)
    logger = getattr(trainer, "logger", None)
    if not logger:
        return join(weights, "checkpoints")
    save_dir = weights if weights != root else str(logger.save_dir or root)
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return join(save_dir, str(logger.name), version, "checkpoints")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path names another file system (``s3://...``)."""
    return "://" in str(path)


def join(*parts: str) -> str:
    """Join parts of a path; a remote one keeps its slashes."""
    if is_remote(parts[0]):
        return "/".join([parts[0].rstrip("/"), *parts[1:]])
    return os.path.join(*parts)


def _formats(value: float, spec: str) -> bool:
    try:
        format(value, spec)
    except ValueError:
        return False
    return True
