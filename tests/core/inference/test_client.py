"""The client against a real engine with two places for adapters, two rows and a short queue."""

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from core.domain import ids as id_space
from core.domain.adapters import Adapter, BrokenAdapter
from core.domain.bases import Base
from core.domain.generation import EngineFailed, EngineUnavailable, PromptTooLong, QueueFull, Sampling
from core.inference import connections
from core.inference.client import Chunk, Engines
from tests.support import engines, tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CONTEXT = 4096
PROMPT = [1, 20, 30]


class Restartable:
    """One engine at one address, which may be killed and started again."""

    def __init__(self, base: Path) -> None:
        self._base = base
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        flags = ("--max-adapters", "2", "--max-sequences", "2", "--max-queue", "2")
        self.engine = self._stack.enter_context(engines.running(self._base, *flags, port=self._port))

    def close(self) -> None:
        self._stack.close()


@dataclass(frozen=True)
class World:
    engine: Restartable
    base: Base
    folders: Mapping[str, Path]
    adapters: Sequence[Adapter]
    base_dir: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("client")
    base_dir = engines.endless(folder / "base", tiny_base.Shape(context=CONTEXT))
    base = _base()
    adapters = [_adapter(base, number) for number in range(6)]
    folders = {
        adapter.id: engines.adapter(folder / adapter.id, base_dir, seed=number, r=2)
        for number, adapter in enumerate(adapters)
    }
    engine = Restartable(base_dir)
    yield World(engine, base, folders, adapters, base_dir)
    engine.close()


def _base() -> Base:
    return Base(
        id=id_space.new("base"),
        name="tiny",
        fingerprint="f" * 64,
        template_hash="t" * 64,
        context_length=CONTEXT,
        parameters=1,
        bytes=1,
        files=(),
        metadata={},
        created_at=0,
    )


def _adapter(base: Base, number: int) -> Adapter:
    return Adapter(
        id=id_space.new("ad"),
        project_id="proj",
        created_by="key",
        kind="final",
        name=f"adapter-{number}",
        version=1,
        base_id=base.id,
        job_id=None,
        step=None,
        attempt=None,
        sha256=f"{number:064x}",
        template_hash=base.template_hash,
        system_prompt=None,
        r=2,
        files=(),
        manifest="{}",
        metadata={},
        aliases=(),
        created_at=0,
    )


class Client:
    """What the API does with the client: adapters are copied from where they are kept."""

    def __init__(self, world: World, adapter_dir: Path, urls: Sequence[str] | None = None) -> None:
        self.world = world
        self.laid: list[str] = []
        self.engines = Engines(
            urls if urls is not None else (world.engine.url,),
            api_key=engines.KEY,
            adapter_dir=adapter_dir,
            lay=self._lay,
        )

    def _lay(self, adapter: Adapter, folder: Path) -> None:
        self.laid.append(adapter.id)
        if not folder.exists():
            shutil.copytree(self.world.folders[adapter.id], folder)

    def stream(self, adapter: Adapter | None = None, *, max_tokens: int = 8) -> AsyncGenerator[Chunk, None]:
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0, repetition_penalty=1.0)
        return self.engines.stream(base=self.world.base, adapter=adapter, ids=PROMPT, sampling=sampling)

    async def ids(self, adapter: Adapter | None = None, *, max_tokens: int = 8) -> list[int]:
        return [id_ async for chunk in self.stream(adapter, max_tokens=max_tokens) for id_ in chunk.ids]


Play = Callable[[Client], Awaitable[None]]


@pytest.fixture
def play(world: World, tmp_path: Path) -> Callable[[Play], None]:
    """Run one scene with a client of its own."""

    def run(scene: Play) -> None:
        async def whole() -> None:
            client = Client(world, tmp_path)
            try:
                await scene(client)
            finally:
                await client.engines.aclose()

        asyncio.run(whole())

    return run


def test_six_adapters_share_two_places_and_each_answers_as_itself(world: World, play: Callable[[Play], None]) -> None:
    solo = engines.Solo(world.base_dir, world.folders)
    expected = {adapter.id: solo.greedy(PROMPT, adapter.id, max_tokens=8) for adapter in world.adapters}
    assert len({tuple(ids) for ids in expected.values()}) == 6

    async def scene(client: Client) -> None:
        for adapter in [*world.adapters, *world.adapters[::-1]]:
            assert await client.ids(adapter) == expected[adapter.id]
        assert len(client.laid) == 10, "the last two of the first round were still there"
        assert await client.ids() == solo.greedy(PROMPT, None, max_tokens=8)
        cards = await _cards(world)
        assert cards == ["tiny", world.adapters[1].id, world.adapters[0].id]

    play(scene)


def test_adapters_that_fight_for_places_all_get_their_turn(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        three = world.adapters[:3]
        alone = {adapter.id: await client.ids(adapter) for adapter in three}
        answers = await asyncio.gather(*(client.ids(adapter) for adapter in three), return_exceptions=True)
        for adapter, answer in zip(three, answers, strict=True):
            assert answer == alone[adapter.id]

    play(scene)


def test_requests_that_miss_an_adapter_at_once_load_it_once(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        adapter = world.adapters[4]
        answers = await asyncio.gather(*(client.ids(adapter) for _ in range(4)))
        assert len({tuple(ids) for ids in answers}) == 1
        assert client.laid == [adapter.id]

    play(scene)


def test_a_consumer_that_leaves_frees_its_slot(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        for _ in range(3):
            async with (
                aclosing(client.stream(max_tokens=4000)) as first,
                aclosing(client.stream(max_tokens=4000)) as second,
            ):
                await anext(first)
                await anext(second)
        started = time.monotonic()
        async with asyncio.timeout(20):
            assert len(await client.ids()) == 8
        taken = time.monotonic() - started
        whole = await _seconds(client, tokens=400)
        assert taken < whole * 4, "the answers of those who left went on"

    play(scene)


def test_a_caller_who_does_not_stream_and_leaves_frees_its_slot_too(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4000, "temperature": 0}
        async with httpx.AsyncClient(
            base_url=world.engine.url, headers=world.engine.engine.headers, timeout=0.5
        ) as impatient:
            for _ in range(3):
                for left in await asyncio.gather(
                    *(impatient.post("/v1/completions", json=body) for _ in range(2)), return_exceptions=True
                ):
                    assert isinstance(left, httpx.ReadTimeout)
        async with asyncio.timeout(20):
            assert len(await client.ids()) == 8

    play(scene)


def test_a_full_queue_is_told_at_once(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        busy = [asyncio.create_task(client.ids(max_tokens=3000)) for _ in range(2)]
        await asyncio.sleep(0.3)
        waiting = [asyncio.create_task(client.ids()) for _ in range(2)]
        await asyncio.sleep(0.3)
        with pytest.raises(QueueFull) as full:
            await client.ids()
        assert full.value.retry_after_s
        for task in busy:
            task.cancel()
        assert await asyncio.gather(*waiting)

    play(scene)


def test_a_prompt_that_the_engine_has_no_room_for_is_the_callers_mistake(play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        with pytest.raises(PromptTooLong):
            await client.ids(max_tokens=CONTEXT)

    play(scene)


def test_an_adapter_that_the_engine_refuses_is_broken_and_not_answered_by_the_base(
    world: World, play: Callable[[Play], None]
) -> None:
    async def scene(client: Client) -> None:
        broken = _adapter(world.base, 9)
        rotten = Path(shutil.copytree(world.folders[world.adapters[0].id], client.world.base_dir.parent / broken.id))
        (rotten / "adapter_model.safetensors").write_bytes(b"rot")
        client.world = World(world.engine, world.base, {broken.id: rotten}, (), world.base_dir)
        with pytest.raises(BrokenAdapter) as refused:
            await client.ids(broken)
        assert str(rotten.parent) not in refused.value.detail

    play(scene)


def test_no_engine_for_a_base_is_unavailable(world: World, tmp_path: Path) -> None:
    async def scene() -> None:
        nowhere = Client(world, tmp_path, urls=())
        other = Client(World(world.engine, _base_named(world.base, "other"), {}, (), world.base_dir), tmp_path)
        refused = Client(world, tmp_path, urls=("http://127.0.0.1:9",))
        for client in (nowhere, other, refused):
            with pytest.raises(EngineUnavailable):
                await client.ids()
            await client.engines.aclose()
        assert [state.is_up for state in await refused.engines.health()] == [False]

    asyncio.run(scene())


def _base_named(base: Base, name: str) -> Base:
    return Base(**{field: getattr(base, field) for field in Base.__slots__} | {"name": name})


def test_an_engine_that_is_gone_is_passed_over(world: World, tmp_path: Path) -> None:
    async def scene() -> None:
        client = Client(world, tmp_path, urls=("http://127.0.0.1:9", world.engine.url))
        for _ in range(3):
            assert len(await client.ids()) == 8
        assert [(state.number, state.is_up, state.bases) for state in await client.engines.health()] == [
            (1, False, ()),
            (2, True, ("tiny",)),
        ]
        await client.engines.aclose()

    asyncio.run(scene())


def test_a_killed_engine_breaks_off_then_is_unavailable_then_heals(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        adapter = world.adapters[2]
        before = await client.ids(adapter)
        async with aclosing(client.stream(adapter, max_tokens=4000)) as chunks:
            await anext(chunks)
            world.engine.engine.kill()
            with pytest.raises(EngineFailed):
                await _exhaust(chunks)
        with pytest.raises(EngineUnavailable) as gone:
            await client.ids(adapter)
        assert gone.value.retry_after_s
        await asyncio.to_thread(world.engine.start)
        # What it knew of the engine grows old in this time.
        await asyncio.sleep(connections.GONE_S)
        assert await client.ids(adapter) == before

    play(scene)


def test_an_engine_that_is_told_to_stop_ends_orderly_amid_an_answer(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        async with aclosing(client.stream(max_tokens=4000)) as chunks:
            await anext(chunks)
            world.engine.engine.process.terminate()
            with pytest.raises(EngineFailed):
                await _exhaust(chunks)
        assert await asyncio.to_thread(world.engine.engine.process.wait, 30) == 0

    play(scene)


async def _exhaust(chunks: AsyncIterator[Chunk]) -> None:
    async for _ in chunks:
        pass


async def _seconds(client: Client, *, tokens: int) -> float:
    started = time.monotonic()
    assert len(await client.ids(max_tokens=tokens)) == tokens
    return time.monotonic() - started


async def _cards(world: World) -> list[str]:
    async with httpx.AsyncClient(base_url=world.engine.url, headers=world.engine.engine.headers) as http:
        return [card["id"] for card in (await http.get("/v1/models")).json()["data"]]
