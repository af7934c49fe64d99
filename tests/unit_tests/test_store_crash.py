"""A writer is killed at random moments of adding, replacing, deleting and saving."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu.search import kinds
from langchain_gpu.search.base import VectorIndex
from langchain_gpu.store import folder as folders
from langchain_gpu.store.batch import Batch
from langchain_gpu.store.collection import Collection
from langchain_gpu.store.documents import Entry
from langchain_gpu.store.errors import StoreNotFoundError
from langchain_gpu.store.identity import Identity
from langchain_gpu.store.manifest import Manifest

ROOT = Path(__file__).parents[2]
IDENTITY = Identity("model", None, (1.0, 0.0, 0.0))
WHOLE = ("manifest.json", "index", "documents", "places", ".lock")
STEP = 40  # documents a save
KINDS = ["flat", "hnsw", "IVF4,Flat"]


def read_index(path: Path, manifest: Manifest) -> VectorIndex:
    return kinds.get(manifest.kind, train_size=100 if "IVF" in manifest.kind else None).load(
        path, "l2"
    )


def search(index: VectorIndex, *how: Any) -> Any:
    return index.search(*how)


def state(saves: int) -> dict[str, tuple[str, str, list[float]]]:
    """What a store holds after so many saves: text, metadata and vector by id."""
    first = 0 if saves < 2 else STEP * (saves - 1)
    held = {
        f"id{n}": (f"text {n}", f'{{"n":{n}}}', [float(n), 1.0, 0.0])
        for n in range(STEP * saves)
        if n % 7 or n >= first
    }
    if saves:
        held["version"] = (f"version {saves}", "{}", [0.5, float(saves), 1.0])
    return held


def open_or_make(folder: Path, kind: str) -> tuple[Collection, int]:
    def make(width: int) -> VectorIndex:
        return kinds.get(kind, train_size=100 if "IVF" in kind else None).create(width, "l2")

    try:
        loaded = folders.load(folder, read_index=read_index, accept=lambda _: None)
    except StoreNotFoundError:
        return Collection(make, search), 0
    version = loaded.documents.get("version")
    assert version is not None
    collection = Collection(make, search, index=loaded.index, documents=loaded.documents)
    collection.know(folder, loaded.manifest)
    return collection, int(version.text.split()[1])


def work(folder: Path, kind: str) -> None:
    """Add, replace, delete and save, and say each save, until killed."""
    collection, saves = open_or_make(folder, kind)
    while True:
        before, after = state(saves), state(saves + 1)
        new = {id_: held for id_, held in after.items() if before.get(id_) != held}
        batch = Batch(
            list(new), [held[0] for held in new.values()], [held[1] for held in new.values()]
        )
        vectors = np.array([held[2] for held in new.values()], dtype=np.float32)
        collection.put(batch, vectors)
        collection.delete([id_ for id_ in before if id_ not in after])
        collection.save(folder, IDENTITY)
        saves += 1
        os.write(1, f"saved {saves}\n".encode())


# One process imports everything, and forks a writer for each round.
NURSERY = """
import os, sys
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[1])
from tests.unit_tests.test_store_crash import work
for line in sys.stdin:
    if not (writer := os.fork()):
        work(Path(sys.argv[2]), sys.argv[3])
    os.write(1, f"writer {writer}\\n".encode())
    os.waitpid(writer, 0)
    os.write(1, b"dead\\n")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_was_saved_is_there(kind: str, tmp_path: Path) -> None:
    chance = random.Random(kind)  # noqa: S311 - no secret
    saved = between = 0  # what the last writer reached; writers that were killed inside a save
    with subprocess.Popen(  # noqa: S603 - this interpreter, a fixed script
        [sys.executable, "-c", NURSERY, str(ROOT), str(tmp_path), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for turn in range(25):
            nursery.stdin.write("go\n")
            nursery.stdin.flush()
            told: dict[str, int] = {}
            last = saved + chance.randint(1, 3)
            while "writer" not in told or told.get("saved", 0) < last:
                word, _, number = nursery.stdout.readline().partition(" ")
                assert number, "the writer failed by itself"
                told[word] = int(number)
            # Longer until one is met inside a save: on a busy machine it is slow to get there.
            time.sleep(chance.random() * (0.02 if between else 0.02 * (1 + turn)))
            os.kill(told["writer"], signal.SIGKILL)
            while (line := nursery.stdout.readline()) != "dead\n":
                told["saved"] = int(line.split()[1])
            saved = check(tmp_path, told["saved"])
            between += saved > told["saved"] or len(list(tmp_path.iterdir())) > len(WHOLE)
        nursery.stdin.close()
    assert between, "every writer was killed outside of a save: nothing was tried"


def check(folder: Path, said: int) -> int:
    """Load, compare everything with what was saved, and return how many saves there were."""
    loaded = folders.load(folder, read_index=read_index, accept=lambda _: None)
    mapped = folders.load(folder, read_index=read_index, accept=lambda _: None, whole=False)
    ids, texts, metadata = loaded.documents.columns()
    assert [mapped.documents.get(id_) for id_ in ids] == list(map(Entry, ids, texts, metadata))
    vectors = loaded.index.vectors(loaded.documents.rows()).tolist()
    version = loaded.documents.get("version")
    assert version is not None
    saves = int(version.text.split()[1])
    assert saves in {said, said + 1}
    here = dict(zip(ids, zip(texts, metadata, vectors, strict=True), strict=True))
    assert here == state(saves)
    return saves
