# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bars, as SVG: a chart is a title and groups of (name, value, label), each group on a logarithmic scale of its own."""

import math
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, BAR, GAP, HEAD = 760, 190, 150, 20, 6, 34
COLOURS = {"vmferry": "#1b6ac9", "bare port": "#7a8793"}
OTHER = "#c2c9d0"


def _text(x, y, text, size=13, anchor="start", weight="normal", fill="#222"):
    return (f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}">'
            f"{escape(text)}</text>")


def bars(title, note, groups):
    """groups: (heading, ((name, value, label), ...)); the longest bar of a group fills the width."""
    parts, y = [_text(16, 28, title, 17, weight="bold"), _text(16, 47, note, 12, fill="#555")], 62
    room = WIDTH - LEFT - RIGHT
    for heading, rows in groups:
        y += HEAD
        parts.append(_text(16, y - 10, heading, 14, weight="bold"))
        low = math.log10(min(value for _, value, _ in rows)) - 0.5
        high = math.log10(max(value for _, value, _ in rows))
        for name, value, label in rows:
            width = room * (math.log10(value) - low) / (high - low)
            colour = next((c for word, c in COLOURS.items() if name.startswith(word)), OTHER)
            parts.append(_text(LEFT - 10, y + 15, name, anchor="end"))
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>')
            parts.append(_text(round(LEFT + width + 8, 1), y + 15, label))
            y += BAR + GAP
    height = y + 14
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="sans-serif">\n<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n")
