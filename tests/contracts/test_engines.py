"""The client against real engines with two places for adapters, four rows and a short queue: embedded, and vLLM."""

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from core.domain import ids as id_space
from core.domain.adapters import Adapter, BrokenAdapter
from core.domain.bases import Base
from core.domain.generation import EngineFailed, EngineUnavailable, PromptTooLong, QueueFull, Sampling
from core.inference import connections
from core.inference.client import Chunk, Engines
from tests.support import engines
from tests.support.commanded import NAME, QUEUE, ROWS, Nano, Restartable

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

CONTEXT = 2048
PROMPT = [1, 20, 30]
SEEDS = (1, 3, 5, 7, 0, 4)
"""Of adapters so wild that their greedy answers go round for ever, each in its own circle."""


@dataclass(frozen=True)
class World:
    engine: Restartable
    base: Base
    folders: Mapping[str, Path]
    adapters: Sequence[Adapter]
    base_dir: Path
    adapter_dir: Path


@pytest.fixture(scope="module")
def adapters(nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        id_space.new("ad"): engines.adapter(folder / str(seed), nano.base_dir, seed=seed, r=2, std=0.5)
        for seed in SEEDS
    }


@pytest.fixture(scope="module")
def world(
    engine: Restartable, nano: Nano, adapters: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> World:
    base = _base()
    rows = [replace(_adapter(base, number), id=name) for number, name in enumerate(adapters)]
    return World(engine, base, adapters, rows, nano.base_dir, tmp_path_factory.mktemp("engine-adapters"))


def _base() -> Base:
    return Base(
        id=id_space.new("base"),
        name=NAME,
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

    def __init__(self, world: World, urls: Sequence[str] | None = None) -> None:
        self.world = world
        self.laid: list[str] = []
        self.elsewhere = False
        self.engines = Engines(
            urls if urls is not None else (world.engine.url,),
            api_key=engines.KEY,
            adapter_dir=world.adapter_dir,
            lay=self._lay,
        )

    def _lay(self, adapter: Adapter, folder: Path) -> None:
        self.laid.append(adapter.id)
        if self.elsewhere:
            return
        if not folder.exists():
            shutil.copytree(self.world.folders[adapter.id], folder)

    def stream(
        self, adapter: Adapter | None = None, *, max_tokens: int = 8, prompt: Sequence[int] = PROMPT
    ) -> AsyncGenerator[Chunk, None]:
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0, repetition_penalty=1.0)
        return self.engines.stream(base=self.world.base, adapter=adapter, ids=prompt, sampling=sampling)

    async def ids(self, adapter: Adapter | None = None, *, max_tokens: int = 8) -> list[int]:
        return [id_ async for chunk in self.stream(adapter, max_tokens=max_tokens) for id_ in chunk.ids]


Play = Callable[[Client], Awaitable[None]]


@pytest.fixture
def play(world: World) -> Callable[[Play], None]:
    """Run one scene with a client of its own."""

    def run(scene: Play) -> None:
        async def whole() -> None:
            client = Client(world)
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
        assert await client.ids() == solo.greedy(PROMPT, None, max_tokens=8)

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
        fresh = replace(world.adapters[4], id=id_space.new("ad"))
        client.world = replace(world, folders={fresh.id: world.folders[world.adapters[4].id]})
        answers = await asyncio.gather(*(client.ids(fresh) for _ in range(4)))
        assert len({tuple(ids) for ids in answers}) == 1
        assert client.laid == [fresh.id] * 2, "laid where it was missing, and verified before its one loading"

    play(scene)


def test_a_consumer_that_leaves_frees_its_slot(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        for _ in range(3):
            async with AsyncExitStack() as leaving:
                for _ in range(ROWS):
                    stream = client.stream(world.adapters[0], max_tokens=CONTEXT // 2)
                    await anext(await leaving.enter_async_context(aclosing(stream)))
        started = time.monotonic()
        async with asyncio.timeout(20):
            assert len(await client.ids(world.adapters[0])) == 8
        taken = time.monotonic() - started
        quarter = await _seconds(client, world.adapters[0], tokens=CONTEXT // 8)
        assert taken < quarter * 4, "the answers of those who left went on"

    play(scene)


def test_a_caller_who_does_not_stream_and_leaves_frees_its_slot_too(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        endless = world.adapters[0]
        await client.ids(endless)
        body = {"model": endless.id, "prompt": PROMPT, "max_tokens": CONTEXT // 2, "temperature": 0}
        headers = {"Authorization": f"Bearer {engines.KEY}"}
        async with httpx.AsyncClient(base_url=world.engine.url, headers=headers, timeout=0.5) as impatient:
            left: list[object] = []
            for _ in range(ROWS):
                asking = (impatient.post("/v1/completions", json=body) for _ in range(QUEUE))
                left += await asyncio.gather(*asking, return_exceptions=True)
        # So many that they would fill rows and queue; on a machine that stalls, an answer may overtake the patience.
        assert sum(isinstance(each, httpx.ReadTimeout) for each in left) >= ROWS + QUEUE, left
        async with asyncio.timeout(20):
            assert len(await client.ids(endless)) == 8

    play(scene)


def test_a_full_queue_is_told_at_once(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        endless = world.adapters[0]
        await client.ids(endless)
        busy = [asyncio.create_task(client.ids(endless, max_tokens=CONTEXT * 3 // 4)) for _ in range(ROWS)]
        await asyncio.sleep(0.3)
        waiting = [asyncio.create_task(client.ids(endless)) for _ in range(QUEUE)]
        await asyncio.sleep(0.3)
        # vLLM counts those that wait a moment late, and may let one or two more in.
        for _ in range(3):
            asking = asyncio.create_task(client.ids(endless))
            if (await asyncio.wait({asking}, timeout=0.3))[0]:
                break
            waiting.append(asking)
        with pytest.raises(QueueFull) as full:
            await asking
        assert full.value.retry_after_s
        assert not any(task.done() for task in busy)
        for task in busy:
            task.cancel()
        assert await asyncio.gather(*waiting)

    play(scene)


def test_a_prompt_that_the_engine_has_no_room_for_is_the_callers_mistake(
    world: World, play: Callable[[Play], None]
) -> None:
    async def scene(client: Client) -> None:
        client.world = replace(world, base=replace(world.base, context_length=2 * CONTEXT))
        with pytest.raises(PromptTooLong) as over:
            await client.ids(max_tokens=CONTEXT)
        assert str(CONTEXT) in over.value.detail
        filling = client.stream(world.adapters[0], prompt=[20] * (CONTEXT - 8))
        assert len([id_ async for chunk in filling for id_ in chunk.ids]) == 8

    play(scene)


def test_an_adapter_whose_folder_somebody_removed_answers_all_the_same(
    world: World, play: Callable[[Play], None]
) -> None:
    async def scene(client: Client) -> None:
        answers = {adapter.id: await client.ids(adapter) for adapter in world.adapters}
        shutil.rmtree(world.adapter_dir)
        for adapter in world.adapters:
            assert await client.ids(adapter) == answers[adapter.id]

    play(scene)


def test_an_engine_that_does_not_see_the_adapters_is_for_its_operator_to_mend(
    world: World, play: Callable[[Play], None]
) -> None:
    async def scene(client: Client) -> None:
        unseen = _adapter(world.base, 8)
        client.world = replace(world, folders={unseen.id: world.folders[world.adapters[0].id]})
        client.elsewhere = True
        with pytest.raises(EngineUnavailable, match="operator"):
            await client.ids(unseen)

    play(scene)


def test_an_adapter_that_the_engine_refuses_is_broken_and_not_answered_by_the_base(
    world: World, play: Callable[[Play], None], tmp_path: Path
) -> None:
    async def scene(client: Client) -> None:
        broken = _adapter(world.base, 9)
        rotten = Path(shutil.copytree(world.folders[world.adapters[0].id], tmp_path / broken.id))
        (rotten / "adapter_model.safetensors").write_bytes(b"rot")
        client.world = replace(world, folders={broken.id: rotten})
        with pytest.raises(BrokenAdapter) as refused:
            await client.ids(broken)
        assert str(world.adapter_dir) not in refused.value.detail

    play(scene)


def test_no_engine_for_a_base_is_unavailable(world: World) -> None:
    async def scene() -> None:
        nowhere = Client(world, urls=())
        other = Client(replace(world, base=replace(world.base, name="other")))
        refused = Client(world, urls=("http://127.0.0.1:9",))
        for client in (nowhere, other, refused):
            with pytest.raises(EngineUnavailable):
                await client.ids()
            await client.engines.aclose()
        assert [state.is_up for state in await refused.engines.health()] == [False]

    asyncio.run(scene())


def test_an_engine_that_is_gone_is_passed_over(world: World) -> None:
    async def scene() -> None:
        client = Client(world, urls=("http://127.0.0.1:9", world.engine.url))
        for _ in range(3):
            assert await client.ids()
        assert [(state.number, state.is_up, state.bases) for state in await client.engines.health()] == [
            (1, False, ()),
            (2, True, (NAME,)),
        ]
        await client.engines.aclose()

    asyncio.run(scene())


def test_a_killed_engine_breaks_off_then_is_unavailable_then_heals(world: World, play: Callable[[Play], None]) -> None:
    async def scene(client: Client) -> None:
        adapter = world.adapters[2]
        before = await client.ids(adapter)
        async with aclosing(client.stream(adapter, max_tokens=CONTEXT // 2)) as chunks:
            await anext(chunks)
            world.engine.kill()
            with pytest.raises(EngineFailed):
                await _exhaust(chunks)
        with pytest.raises(EngineUnavailable) as gone:
            await client.ids(adapter)
        assert gone.value.retry_after_s
        world.engine.start()  # on this thread, whose end would end the engine too
        # What it knew of the engine grows old in this time.
        await asyncio.sleep(connections.GONE_S)
        assert await client.ids(adapter) == before

    play(scene)


async def _exhaust(chunks: AsyncIterator[Chunk]) -> None:
    async for _ in chunks:
        pass


async def _seconds(client: Client, adapter: Adapter, *, tokens: int) -> float:
    started = time.monotonic()
    assert len(await client.ids(adapter, max_tokens=tokens)) == tokens
    return time.monotonic() - started
