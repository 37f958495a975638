"""Crops of concurrent requests, embedded together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from facefoundry.images import Image
from facefoundry.onnx_file import Floats

EmbedCrops = Callable[[Sequence[Image]], Floats]


class Batcher:
    """While one batch is computed the next one gathers: nobody waits for company, and the busier
    the service the larger its batches."""

    def __init__(
        self, embed: EmbedCrops, max_batch: int, observe: Callable[[int], None] = lambda size: None
    ) -> None:
        """`observe` is told the size of every batch."""
        self._embed, self._max_batch, self._observe = embed, max_batch, observe
        self._waiting: asyncio.Queue[tuple[Image, asyncio.Future[Floats]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "embed")
        self._task: asyncio.Task[None] | None = None

    async def embed(self, crops: Sequence[Image]) -> list[Floats]:
        """An embedding (D,) for each aligned (112, 112, 3) uint8 RGB crop."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in crops]
        for crop, future in zip(crops, futures, strict=True):
            self._waiting.put_nowait((crop, future))
        return list(await asyncio.gather(*futures))

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._max_batch and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._answer(batch)

    async def _answer(self, batch: list[tuple[Image, asyncio.Future[Floats]]]) -> None:
        loop = asyncio.get_running_loop()
        self._observe(len(batch))
        try:
            crops = [crop for crop, _ in batch]
            results = await loop.run_in_executor(self._thread, self._embed, crops)
        except Exception as error:  # whatever it is, it belongs to those who wait
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():  # the client may have gone
                future.set_result(result)
