"""A terminal for commands that draw on one."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from fcntl import ioctl
from types import MappingProxyType

import pyte


class Terminal:
    """A process on a terminal of some size, and what stands on its screen."""

    def __init__(self, columns: int, lines: int, *command: str, env: Mapping[str, str] = MappingProxyType({})):
        self.screen = pyte.Screen(columns, lines)
        self._stream, (self._ours, theirs) = pyte.ByteStream(self.screen), pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | dict(env)
        for name in ("COLUMNS", "LINES"):  # which would count for more than the terminal's own size
            environment.pop(name, None)
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)

    def until(self, pattern: str, seconds: float = 20) -> list[str]:
        """The lines of the screen once they match, and nothing more is being written."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self._stream.feed(os.read(self._ours, 65536))
                    continue
                except OSError:  # Linux says so when the process has ended
                    pass
            if re.search(pattern, "\n".join(self.screen.display)):
                return [line.rstrip() for line in self.screen.display]
        raise AssertionError("\n".join(self.screen.display))

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())
