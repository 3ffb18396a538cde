"""Draw throughput and latency against connections, as SVG without a library.

The colours lie in the middle between light and dark, and nothing is painted
behind them: the picture is legible on a page of either kind.
"""

import math
from html import escape

WIDTH, HEIGHT = 860, 380
TOP, BOTTOM = 70, 320
PANELS = ((62, 420), (500, 840))
# Between the edge of a panel and its first and last points, for what is written at these.
INSET = 20
INK, RULE = "#78828e", "#78828e"
BLUE, ORANGE = "#3f8ae0", "#d9702b"


class Panel:
    """One diagram: connections to the right, on a logarithmic scale, a value upwards."""

    def __init__(
        self, left: int, right: int, connections: list[int], ticks: list[float], log: bool
    ):
        self.left, self.right, self.log = left, right, log
        self.first, self.last = math.log(connections[0]), math.log(connections[-1])
        self.low, self.high = self._scale(ticks[0]), self._scale(ticks[-1])
        self.parts: list[str] = []
        for tick in ticks:
            y = self.y(tick)
            self.parts.append(
                f'<path d="M{left} {y:.1f}H{right}" stroke="{RULE}" stroke-opacity=".25"/>'
            )
            self.text(left - 8, y + 4, f"{tick:,g}", "end")
        for count in connections:
            self.text(self.x(count), BOTTOM + 20, str(count))
        self.text((left + right) / 2, BOTTOM + 42, "connections")

    def x(self, count: int) -> float:
        share = (math.log(count) - self.first) / (self.last - self.first)
        return self.left + INSET + share * (self.right - self.left - 2 * INSET)

    def y(self, value: float) -> float:
        share = (self._scale(value) - self.low) / (self.high - self.low)
        return BOTTOM - share * (BOTTOM - TOP)

    def title(self, text: str) -> None:
        self.parts.append(
            f'<text x="{self.left}" y="{TOP - 24}" font-weight="600" font-size="14">'
            f"{escape(text)}</text>"
        )

    def line(self, points: list[tuple], colour: str, above: bool) -> None:
        places = [(self.x(count), self.y(value)) for count, value in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        self.parts.append(
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5"'
            ' stroke-linejoin="round"/>'
        )
        for (x, y), (_, value) in zip(places, points, strict=True):
            self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            above_here = above or y + 28 > BOTTOM
            self.text(x, y - 11 if above_here else y + 21, _short(value), colour=colour)

    def level(self, value: float, text: str) -> None:
        y = self.y(value)
        self.parts.append(
            f'<path d="M{self.left} {y:.1f}H{self.right}" stroke="{INK}" stroke-width="1.5"'
            ' stroke-dasharray="6 5"/>'
        )
        self.text(self.right, y - 7, text, "end")

    def text(self, x: float, y: float, text: str, anchor="middle", colour: str = INK) -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
            f"{escape(text)}</text>"
        )

    def _scale(self, value: float) -> float:
        return math.log(value) if self.log else value


def draw(curve: list[dict], noop_rate: float | None, caption: str) -> str:
    """Return the picture of what was measured at each number of connections."""
    connections = [point["connections"] for point in curve]
    highest = max([point["rate"] for point in curve] + [noop_rate or 0])
    rates = Panel(*PANELS[0], connections, _linear_ticks(highest), log=False)
    rates.title("Reservations accepted per second, one event")
    if noop_rate:
        rates.level(noop_rate, "endpoint without database, 32 connections")
    rates.line([(p["connections"], p["rate"]) for p in curve], BLUE, above=False)

    lowest = min(point["p50_ms"] for point in curve)
    slowest = max(point["p99_ms"] for point in curve)
    latencies = Panel(*PANELS[1], connections, _log_ticks(lowest, slowest), log=True)
    latencies.title("Latency in milliseconds")
    latencies.line([(p["connections"], p["p99_ms"]) for p in curve], ORANGE, above=True)
    latencies.line([(p["connections"], p["p50_ms"]) for p in curve], BLUE, above=False)
    for offset, colour, text in ((100, ORANGE, "p99"), (40, BLUE, "p50")):
        x = PANELS[1][1] - offset
        latencies.parts.append(f'<circle cx="{x}" cy="{TOP - 29}" r="4" fill="{colour}"/>')
        latencies.text(x + 9, TOP - 25, text, "start", colour)

    body = "\n".join(rates.parts + latencies.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' width="{WIDTH}" height="{HEIGHT}" role="img" font-size="12" fill="{INK}"'
        ' font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
        "<title>Throughput and latency of reservations against connections</title>\n"
        f"{body}\n"
        f'<text x="{PANELS[0][0]}" y="22">{escape(caption)}</text>\n</svg>\n'
    )


def _linear_ticks(highest: float) -> list[float]:
    """Return round numbers from 0 to at least `highest`, about five of them."""
    size = 10 ** math.floor(math.log10(max(highest, 1)))
    step = next(n * size for n in (0.1, 0.2, 0.25, 0.5, 1, 2) if highest / (n * size) <= 6)
    return [step * n for n in range(math.ceil(highest * 1.05 / step) + 1)]


def _log_ticks(lowest: float, highest: float) -> list[float]:
    """Return numbers 1, 2, 5, 10, ... from below `lowest` to above `highest`."""
    steps = [n * 10.0**power for power in range(-3, 6) for n in (1, 2, 5)]
    below = max(step for step in steps if step <= lowest / 1.3)
    above = min(step for step in steps if step >= highest * 1.3)
    return [step for step in steps if below <= step <= above]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
