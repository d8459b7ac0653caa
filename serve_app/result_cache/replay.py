"""Records the engine's outputs of an answer, and replays them in the engine's place."""

from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from engine.types import EngineClient, EngineStatus, GenerateRequest, RequestOutput
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import UsageSource

__all__ = ["ChunkRecorder", "Chunks", "ReplayClient"]

Chunks = list[tuple[int, RequestOutput]]  # (index of the request within the answer, output)


class ChunkRecorder:
    """A StreamObserver that keeps the outputs of a complete answer.

    ids   of the answer's requests
    """

    def __init__(self, ids: Sequence[str], keep: Callable[[Chunks], None]) -> None:
        self._ids, self._keep = ids, keep
        self._chunks: Chunks = []
        self._is_aborted = False

    def on_start(self, output: UsageSource) -> None:
        pass

    def on_delta(self, delta: ChoiceDelta) -> None:
        chunk = delta.chunk
        self._is_aborted = self._is_aborted or delta.finish_reason == "abort"
        part = self._ids.index(chunk.request_id)
        self._chunks.append((part, msgspec.structs.replace(chunk, request_id="", num_migrations=0, trace=None)))

    def on_end(self, *, is_complete: bool, error: Exception | None) -> None:
        if is_complete and not self._is_aborted:
            self._keep(self._chunks)


class ReplayClient:
    """An engine client that replays recorded outputs."""

    def __init__(self, client: EngineClient, ids: Sequence[str], chunks: Chunks) -> None:
        self._client, self._ids, self._chunks = client, ids, chunks

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        asked = self._ids.index(request.request_id)
        for part, chunk in self._chunks:
            if part == asked:
                yield msgspec.structs.replace(chunk, request_id=request.request_id)

    def stop_choice(self, request_id: str, index: int) -> None:
        """Does nothing: no engine runs."""

    async def status(self, model: str) -> EngineStatus:
        return await self._client.status(model)
