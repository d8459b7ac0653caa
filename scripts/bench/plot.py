"""Draws cumulative distributions as plain SVG, without a library."""

import math
from collections.abc import Mapping, Sequence

__all__ = ["bars_svg", "distribution_svg"]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 170, 40, 50  # margins
COLOURS = ("#1b6ca8", "#c0392b", "#7f8c8d", "#27894a", "#a8791b", "#6c3483")


def distribution_svg(title: str, unit: str, values: Mapping[str, Sequence[float]]) -> str:
    """The empirical distribution function of each name's values (positive, of that unit), over a logarithmic x."""
    low = 10 ** math.floor(math.log10(max(1e-6, min(map(min, values.values())))))
    high = 10 ** math.ceil(math.log10(max(map(max, values.values()))))

    def x(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="14">{title}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{LEFT} {y(share):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    tick = low
    while tick <= high * 1.01:
        parts.append(f'<path d="M{x(tick):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tick:g} {unit}</text>')
        tick *= 10
    for number, (name, some) in enumerate(values.items()):
        colour = COLOURS[number % len(COLOURS)]
        ordered = sorted(some)
        steps = [(k / 200, ordered[min(len(ordered) - 1, k * len(ordered) // 200)]) for k in range(201)]
        points = " ".join(f"{x(value):.1f},{y(share):.1f}" for share, value in steps)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = TOP + 20 + 22 * number
        parts.append(f'<path d="M{WIDTH - RIGHT + 12} {at}h20" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 38}" y="{at + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def bars_svg(title: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """A group of bars for each name, a bar for each of its values, all from zero on one scale per group."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    width = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="14">{title}</text>',
    ]
    for place, (group, values) in enumerate(groups.items()):
        left, most = LEFT + place * width, max(values.values()) or 1
        bar = 0.8 * width / len(names)
        parts.append(
            f'<text x="{left + width * 0.4:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{group}</text>'
        )
        for name, value in values.items():
            number = names.index(name)
            height = value / most * (HEIGHT - TOP - BOTTOM - 20)
            x, y = left + number * bar, HEIGHT - BOTTOM - height
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar * 0.9:.1f}" height="{height:.1f}" '
                f'fill="{COLOURS[number % len(COLOURS)]}"/>'
            )
            parts.append(f'<text x="{x + bar * 0.45:.1f}" y="{y - 4:.1f}" text-anchor="middle">{value:g}</text>')
    for number, name in enumerate(names):
        at = TOP + 20 + 22 * number
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{at - 8}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 32}" y="{at + 3}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
