"""The losses of a run as a drawing: a line per method, with every refinement move marked."""

from __future__ import annotations

from html import escape

from attncontrol.guidance.record import ImageRecord, StepRecord

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 14, 36


def loss_plot(record: ImageRecord | None) -> str:
    """An SVG of the loss at each sampling step, empty without any guided step.

    The line goes through the first evaluation of every step, before the latents move; where refinement evaluated
    again, a stem leads to the last evaluation and the number of its moves stands beside it.
    """
    steps = [step for step in record.steps if step.losses] if record else []
    if not steps:
        return ""
    values = [value for step in steps for losses in step.losses.values() for value in losses]
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    count = len(record.steps)

    def x(step: StepRecord) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step.index / max(count - 1, 1)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    methods = list(dict.fromkeys(name for step in steps for name in step.losses))
    lines = []
    for number, name in enumerate(methods):
        points = [(x(step), y(step.losses[name][0]), step) for step in steps if name in step.losses]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
        dots = "".join(_dot(px, py, step, name, y(step.losses[name][-1])) for px, py, step in points)
        lines.append(f'<g data-colour="{number}"><polyline points="{path}"/>{dots}</g>')
    moves = sum(step.refinements for step in steps)
    title = f"Loss over {count} sampling steps, {len(steps)} of them guided, {moves} refinement moves"
    legend = "".join(f'<span data-colour="{i}">{escape(name)}</span>' for i, name in enumerate(methods))
    legend += "<span>◆ refined: the stem leads to the loss after refinement</span>" if moves else ""
    return (
        f'<figure class="loss"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"{_axes(low, high, count, y)}{''.join(lines)}</svg>"
        f"<figcaption>{legend}</figcaption></figure>"
    )


def _dot(px: float, py: float, step: StepRecord, name: str, last: float) -> str:
    first = step.losses[name][0]
    if not step.refinements:
        return (
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5"><title>step {step.index + 1}: {first:.4g}</title></circle>'
        )
    text = f"step {step.index + 1}: {first:.4g} to {step.losses[name][-1]:.4g} in {step.refinements} refinement moves"
    return (
        f'<g class="refined"><line x1="{px:.1f}" y1="{py:.1f}" x2="{px:.1f}" y2="{last:.1f}"/>'
        f'<path d="M{px:.1f} {py - 5:.1f}l5 5l-5 5l-5 -5z"/><title>{text}</title></g>'
    )


def _axes(low: float, high: float, count: int, y) -> str:
    base = HEIGHT - BOTTOM
    ticks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.3g}</text>'
        for v in (low, (low + high) / 2, high)
    )
    return (
        f'{ticks}<text x="{LEFT}" y="{base + 16}">step 1</text>'
        f'<text x="{WIDTH - RIGHT}" y="{base + 16}" text-anchor="end">step {count}</text>'
        f'<text x="{LEFT + (WIDTH - LEFT - RIGHT) / 2}" y="{base + 28}" text-anchor="middle">sampling steps</text>'
        f'<text x="12" y="{TOP + (base - TOP) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {TOP + (base - TOP) / 2})">loss</text>'
    )
