"""The throughput as a picture: one bar a contestant, at the number of jobs at once that suits it best."""

from typing import Any
from xml.sax.saxutils import escape

import contestants as who

WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 780, 270, 150, 18, 7, 62
SHOAL, QUEUE, PLAIN, BARE = "#0b7285", "#868e96", "#ced4da", "#495057"


def drawn(found: dict[str, Any]) -> str:
    """An SVG of the results' throughput."""
    titles = {one.key: one.title for one in who.ALL}
    rows = sorted(
        ((titles[key], key, *_best(levels)) for key, levels in found["throughput"].items()), key=lambda row: -row[2]
    )
    most = max(rate for _, _, rate, _ in rows)
    height = TOP + len(rows) * (BAR + GAP) + 14
    seconds, machine = found["settings"]["model_latency_seconds"], found["machine"]
    subtitle = (
        f"one worker process, model latency {seconds:g} s, {machine['cores']} cores shared by all, {found['date'][:10]}"
    )
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="26" font-size="16" font-weight="600" fill="#212529">Answers a second</text>',
        f'<text x="16" y="45" fill="#495057">{escape(subtitle)}</text>',
    ]
    for place, (title, key, rate, at_once) in enumerate(rows):
        y = TOP + place * (BAR + GAP)
        width = max(1.0, (WIDTH - LEFT - RIGHT) * rate / most)
        weight = ' font-weight="600"' if key.startswith("shoal") else ""
        beside = f'<tspan fill="#868e96" font-weight="400">  {at_once} at once</tspan>'
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end" fill="#212529"{weight}>{escape(title)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{_colour(key)}"/>',
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 13}" fill="#212529"{weight}>{rate:,.0f}{beside}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _best(levels: dict[str, Any]) -> tuple[float, str]:
    return max((row["jobs_per_second"], at_once) for at_once, row in levels.items())


def _colour(key: str) -> str:
    if key.startswith("shoal"):
        return SHOAL
    if key.endswith("_plain"):
        return PLAIN
    return BARE if key == who.BARE.key else QUEUE
