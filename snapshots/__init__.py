"""Content-addressed snapshots of directories: capture, restore, verify, diff, export, sweep.

    with DirectoryChunkStore(path) as store:
        snapshot = capture({"workspace": workspace, "home": home}, store, cache=cache)
        restore(snapshot.digest, scratch, store)

Everything blocks; from a coroutine use `asyncio.to_thread`.
"""

from snapshots.capture import Limits, Snapshot, capture
from snapshots.directory import DirectoryChunkStore
from snapshots.restore import restore
from snapshots.statcache import StatCache
from snapshots.verify import is_whole, verify, verify_restored
