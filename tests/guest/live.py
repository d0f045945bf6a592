"""An interpreter with live data: objects with known names, a generator halfway through,
a chain of calls, a class with instances. Says in one line what it has, and stays.

live.py OBJECTS: how many objects; the text of the N-th is "live-python-object-N", six
digits, and a checksum that nothing else in memory has.
"""

import os
import sys
import time

count = int(sys.argv[1])


class Order:
    """What an application keeps: numbers, texts, a link to another."""

    def __init__(self, number, before):
        self.number = number
        self.text = f"live-python-object-{number:06}-{number * 2654435761 % (1 << 32):08x}"
        self.before = before
        self.tags = {"even": number % 2 == 0, "score": number * 0.37}


def countdown(number):
    """Stands still in the middle."""
    while number:
        yield number
        number -= 1


def descend(depth, note):
    """A chain of frames, each with a local of its own."""
    local = f"{note}/frame-{depth:03}"
    if depth:
        return descend(depth - 1, local[:24]) + len(local)
    print(f"LB live python pid={os.getpid()} objects={count:x}", flush=True)
    while True:
        time.sleep(1000)


orders, last = {}, None
for n in range(count):
    last = Order(n, last)
    orders[last.text] = last
half = countdown(1000)
for _ in range(500):
    next(half)
block = bytearray(b"".join(b"live-python-block-%06d" % n for n in range(40000)))
descend(40, "python")
