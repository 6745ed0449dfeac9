"""How workers talk to the driver. Apart, so that the process that holds the events imports nothing heavy."""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]


class Mailbox:
    """An actor that keeps events until the driver takes them: what a worker wrote survives the worker."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def push(self, event: Event) -> None:
        self._events.append(event)

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events
