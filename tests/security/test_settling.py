"""The issuer when the keys of one account are damaged: the others get theirs, and nothing spins."""

from pathlib import Path

from tests.harness import eventually
from tests.security.conftest import Hub


async def test_an_account_with_damaged_keys_is_told_and_neither_spins_nor_holds_up_others(hub: Hub) -> None:
    pusher = hub.issuer._pusher  # pyright: ignore[reportPrivateUsage]
    await eventually(lambda: {"webshop", "other"} <= pusher.known)
    keys: Path = hub.prepared.resolver.parent / "keys"
    for number in range(10):
        path = keys / f"project-a-{number}.nk"
        path.write_text("damaged")
        path.chmod(0o600)
    asked: list[str] = []
    make = pusher._jwt_of  # pyright: ignore[reportPrivateUsage]

    def counted(account: str) -> str:
        asked.append(account)
        return make(account)

    pusher._jwt_of = counted  # pyright: ignore[reportPrivateUsage]
    pusher.owed.update(f"a-{number}" for number in range(10))
    pusher.owed.add("other")
    await eventually(lambda: "other" not in pusher.owed)
    begun = len(asked)
    await eventually(lambda: len(asked) >= begun + 20)
    assert len(asked) < begun + 40
    health = await hub.issuer.health()
    assert not health.ok
