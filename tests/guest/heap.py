"""A long-lived interpreter's heap, as a server's application leaves it: parsed
source, an index of words, documents of nested dictionaries. Grows to so many MiB,
says so in one line, and stays. Nothing depends on the time or on chance.

heap.py MIB PART: PART (0, 1, ...) chooses which files it begins with.
"""

import ast
import os
import resource
import sys
import time

limit, part = int(sys.argv[1]), int(sys.argv[2])
TOPS = ("/usr/lib/python3.11", "/src")


def resident():
    """MiB that this process had in memory at most; it only grows (getrusage(2): KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def sources():
    """Every text below the tops, in one order, begun somewhere else for each part."""
    found = []
    for top in TOPS:
        for folder, dirs, names in os.walk(top):
            dirs.sort()
            found += [os.path.join(folder, n) for n in sorted(names)
                      if n.endswith((".py", ".c", ".h", ".rst"))]
    start = part * 977 % max(1, len(found))
    return found[start:] + found[:start]


def document(name, number, line):
    """A record as applications keep them after reading JSON."""
    return {"id": number, "path": name, "tags": line.split()[:4], "score": number * 0.37,
            "active": number % 3 == 0, "meta": {"length": len(line), "owner": None}}


index, trees, documents, texts = {}, [], [], {}
for name in sources():
    if resident() >= limit:
        break
    with open(name, encoding="utf-8", errors="replace") as file:
        text = file.read()
    if name.endswith(".py"):
        try:
            trees.append(ast.parse(text))
        except (SyntaxError, ValueError):
            pass
        continue
    texts[name] = text
    for number, line in enumerate(text.splitlines()):
        if number % 16 == 0:
            documents.append(document(name, number, line))
        if number % 4 == 0:
            for word in line.split():
                index.setdefault(word, []).append((len(texts), number))

print(f"LB heap: {resident()} MiB, {len(trees)} trees, {len(index)} words, "
      f"{len(documents)} documents, {len(texts)} texts", flush=True)
while True:
    time.sleep(1000)
