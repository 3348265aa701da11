"""The picture of docs/states.md on the site: its mermaid text as SVG, without a script."""

import re
from html import escape

__all__ = ["picture", "with_picture"]

#: Where the middle of each box is.
PLACES = {
    "IDLE": (85, 40),
    "STARTED": (270, 40),
    "EPOCH_STARTED": (490, 40),
    "FETCHING": (750, 40),
    "COMPLETED": (270, 190),
    "EPOCH_COMPLETED": (490, 190),
    "STEPPING": (750, 190),
    "INTERRUPTED": (490, 330),
    "TERMINATED": (680, 330),
    "FAILED": (850, 330),
}
WIDTH, HEIGHT, HALF_HIGH = 930, 370, 18
_ARROW = re.compile(r"^ +(\w+) --> (\w+): (\w+)$", re.MULTILINE)
_MERMAID = re.compile(r"```mermaid\n(stateDiagram.*?)```\n", re.DOTALL)
_STYLE = """\
.states text { font: 13px var(--md-code-font-family, monospace); fill: var(--md-default-fg-color); }
.states .move { font-size: 11px; paint-order: stroke; stroke: var(--md-default-bg-color);
  stroke-width: 4px; }
.states rect { fill: var(--md-code-bg-color); stroke: var(--md-default-fg-color--light); }
.states path { stroke: var(--md-default-fg-color--light); fill: none; }
.states marker path { fill: var(--md-default-fg-color--light); }"""


def _half_wide(name: str) -> float:
    return 4.2 * len(name) + 12


def _border(
    name: str, toward: tuple[float, float], shift: tuple[float, float]
) -> tuple[float, float]:
    """Return where the line from the middle of a box, moved by ``shift``, leaves the box."""
    x, y = PLACES[name][0] + shift[0], PLACES[name][1] + shift[1]
    dx, dy = toward[0] + shift[0] - x, toward[1] + shift[1] - y
    wide = (_half_wide(name) - abs(shift[0])) / abs(dx) if dx else float("inf")
    high = (HALF_HIGH - abs(shift[1])) / abs(dy) if dy else float("inf")
    share = min(wide, high)
    return x + dx * share, y + dy * share


def picture(diagram: str) -> str:
    """Return the SVG of a state diagram whose states are all in ``PLACES``.

    Moves out of INTERRUPTED are left out: such a run goes on with the move that would have come
    next, which the page says.
    """
    moves: dict[tuple[str, str], list[str]] = {}
    for source, target, move in _ARROW.findall(diagram):
        if source != "INTERRUPTED":
            moves.setdefault((source, target), []).append(move)
    parts = []
    for (source, target), names in moves.items():
        (x1, y1), (x2, y2) = PLACES[source], PLACES[target]
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        # There and back side by side.
        aside = 8 if (target, source) in moves else 0
        shift = (-(y2 - y1) / length * aside, (x2 - x1) / length * aside)
        (ax, ay), (bx, by) = _border(source, (x2, y2), shift), _border(target, (x1, y1), shift)
        parts.append(f'<path d="M{ax:.0f} {ay:.0f}L{bx:.0f} {by:.0f}" marker-end="url(#tip)"/>')
        # Nearer to where a slanting arrow begins: there is more room.
        part = 0.5 if ax == bx or ay == by else 0.38
        x, y = ax + (bx - ax) * part + shift[0], ay + (by - ay) * part
        y -= 6 + 14 * (len(names) - 1) if ay == by else 7 * (len(names) - 1)
        anchor = "middle" if not aside else ("start" if shift[0] > 0 else "end")
        for line, name in enumerate(names):
            parts.append(
                f'<text class="move" x="{x:.0f}" y="{y + 14 * line:.0f}" text-anchor="{anchor}">'
                f"{escape(name)}</text>"
            )
    for name, (x, y) in PLACES.items():
        half = _half_wide(name)
        parts.append(
            f'<rect x="{x - half:.0f}" y="{y - HALF_HIGH}" width="{2 * half:.0f}" '
            f'height="{2 * HALF_HIGH}" rx="6"/>'
            f'<text x="{x}" y="{y + 4}" text-anchor="middle">{escape(name)}</text>'
        )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    return (
        f'<svg class="states" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="States of a run and the moves between them"><style>{_STYLE}</style>{tip}'
        f"{''.join(parts)}</svg>\n"
    )


def with_picture(markdown: str) -> str:
    """Put the picture where a page has the diagram as text."""
    return _MERMAID.sub(lambda found: picture(found[1]), markdown)
