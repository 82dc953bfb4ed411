#!/usr/bin/env python3
"""Writes orders.ndjson and sensors.ndjson beside this script: the same bytes every time.

The figures are made up. They come from a small generator of our own, not from `random`, whose
sequences may differ between Python versions.
"""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

START = datetime(2026, 3, 2, 8, 0, 0, tzinfo=timezone.utc)
PRODUCTS = [("espresso", 240), ("flat white", 380), ("cold brew", 420), ("matcha", 450), ("scone", 310)]
SHOPS = ["Aarhus", "Bergen", "Kraków", "Leeds", "Málaga", "Tartu"]


class Lcg:
    """The 64-bit linear congruential generator of Knuth's MMIX; the upper half is used."""

    def __init__(self, seed):
        self.state = seed

    def below(self, bound):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 32) % bound


def orders(rng, count):
    at = START
    for number in range(count):
        at += timedelta(milliseconds=200 + rng.below(9_000))
        lines = []
        for _ in range(1 + rng.below(3)):
            product, cents = PRODUCTS[rng.below(len(PRODUCTS))]
            lines.append({"product": product, "quantity": 1 + rng.below(4), "cents": cents})
        yield {
            "order": f"o-{number:05}",
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "shop": SHOPS[rng.below(len(SHOPS))],
            "lines": lines,
            "total_cents": sum(line["quantity"] * line["cents"] for line in lines),
        }


def sensors(rng, count):
    levels = [(18_000 + rng.below(8_000), 35_000 + rng.below(30_000)) for _ in range(8)]
    for tick in range(count):
        sensor = tick % len(levels)
        celsius, humidity = levels[sensor]
        celsius += rng.below(201) - 100
        humidity = min(max(humidity + rng.below(801) - 400, 5_000), 99_000)
        levels[sensor] = (celsius, humidity)
        at = START + timedelta(milliseconds=tick * 250)
        yield {
            "sensor": f"s-{sensor}",
            "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "celsius": celsius / 1000,
            "humidity_percent": humidity / 1000,
        }


def write(name, rows):
    path = Path(__file__).with_name(name)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


write("orders.ndjson", orders(Lcg(3), 1_000))
write("sensors.ndjson", sensors(Lcg(7), 1_000))
