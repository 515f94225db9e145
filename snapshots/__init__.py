"""Content-addressed snapshots of directories: capture, restore, verify, diff, export, sweep.

    with DirectoryChunkStore(path) as store:
        snapshot = capture({"workspace": workspace, "home": home}, store, cache=cache)
        restore(snapshot.digest, scratch, store)

Everything blocks; from a coroutine use `asyncio.to_thread`. Nothing is imported here that is not used at once: import
from the modules (`snapshots.capture`, `snapshots.restore`, `snapshots.directory`, `snapshots.http`, …).
"""
