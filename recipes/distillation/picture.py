"""A picture of a distillation's curve as SVG: plain text, which any browser and README shows."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Row = Mapping[str, float]

WIDTH, HEIGHT, GAP = 420, 190, 46
COLORS = (
    "#1b6ca8",
    "#d1495b",
    "#2e933c",
    "#edae49",
    "#6a4c93",
    "#00798c",
    "#8d6a4f",
    "#444444",
)
PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "all four attributes right (dashed: the teacher)",
        (("seen_all_four", "seen"), ("heldout_all_four", "held out"), ("score", "score")),
    ),
    (
        "motion, by kind (dashed: the teacher)",
        tuple(
            (f"motion_{name}", name.replace("_", " "))
            for name in (
                "moves_left",
                "moves_right",
                "moves_up",
                "moves_down",
                "bounces",
                "spins",
                "grows",
                "orbits",
            )
        ),
    ),
    (
        "distance to the teacher of what prompts leave free",
        (
            ("distance_start_x", "start x"),
            ("distance_start_y", "start y"),
            ("distance_speed", "speed"),
            ("distance_size", "size"),
        ),
    ),
    ("saturation (dashed: the teacher)", (("saturation", "saturation"),)),
)


def draw_curve(rows: Sequence[Row], teacher: Row, best: float) -> str:
    """The curve as an SVG document: four panels over the steps, and a line at the best of them.

    Args:
        rows: of each validation its numbers, ``step`` among them; one or more.
        teacher: the teacher's numbers, drawn as dashed lines.
        best: the step whose student is kept.
    """
    places = [(column, row) for row in range(2) for column in range(2)]
    parts = [
        _panel(title, names, rows, teacher, best, place)
        for (title, names), place in zip(PANELS, places, strict=True)
    ]
    wide, high = 2 * WIDTH, 2 * (HEIGHT + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
        f'font-family="sans-serif" font-size="11">\n'
        f'<rect width="{wide}" height="{high}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(
    title: str,
    names: Sequence[tuple[str, str]],
    rows: Sequence[Row],
    teacher: Row,
    best: float,
    place: tuple[int, int],
) -> str:
    steps = [row["step"] for row in rows]
    values = [row[name] for row in rows for name, _ in names if _drawn(row, name)]
    values += [teacher[name] for name, _ in names if _drawn(teacher, name)]
    low, high = min([0.0, *values]), max([0.05, *values])
    last = max(steps)
    inner, tall = WIDTH - 130, HEIGHT - 30

    def x(step: float) -> float:
        return 40 + inner * step / max(last, 1)

    def y(value: float) -> float:
        return 24 + tall * (1 - (value - low) / (high - low))

    lines = [f'<text x="40" y="14" font-weight="bold">{escape(title)}</text>']
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        lines += [
            f'<line x1="40" x2="{40 + inner}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#dddddd"/>',
            f'<text x="36" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>',
        ]
    lines += [
        f'<text x="{x(step):.1f}" y="{HEIGHT + 8}" text-anchor="middle">{step:g}</text>'
        for step in (0, last)
    ]
    lines.append(
        f'<line x1="{x(best):.1f}" x2="{x(best):.1f}" y1="24" y2="{24 + tall}" stroke="#999999" '
        f'stroke-dasharray="1 3"><title>the best: step {best:g}</title></line>'
    )
    for number, (name, label) in enumerate(names):
        color = COLORS[number % len(COLORS)]
        points = [(row["step"], row[name]) for row in rows if _drawn(row, name)]
        drawn = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        if _drawn(teacher, name):
            level = f"{y(teacher[name]):.1f}"
            lines.append(
                f'<line x1="40" x2="{40 + inner}" y1="{level}" y2="{level}" stroke="{color}" '
                f'stroke-dasharray="5 4" stroke-opacity="0.5"/>'
            )
        lines += [
            f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="1.6"/>',
            f'<text x="{48 + inner}" y="{34 + 15 * number}" fill="{color}">{escape(label)}</text>',
        ]
    column, row = place
    shift = f"translate({column * WIDTH} {row * (HEIGHT + GAP)})"
    return f'<g transform="{shift}">\n' + "\n".join(lines) + "\n</g>"


def _drawn(row: Row, name: str) -> bool:
    return math.isfinite(row.get(name, math.nan))
