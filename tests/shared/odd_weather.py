"""A tool that does in each city something else that no tool should do."""

import os
import sys
import time


def get_weather(city: str) -> object:
    if city == "Arlen":
        message = "no weather today"
        raise ValueError(message)
    if city == "Borow":
        time.sleep(60)
    if city == "Cadiz":
        os._exit(3)
    if city == "Dunmor":
        return object()
    for _ in range(20):
        sys.stdout.write("x" * 1_000_000)
    return "16 degrees"
