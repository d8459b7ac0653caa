import zlib

import msgspec
import pytest
import zstandard

from configs.schema import ApiConfig
from serve_app.transport.compression import accepted_encoding
from tests.serve_app.scripted import ScriptedClient, chat, events, says, serving
from tests.serve_app.transport.test_connection import Peer

URL = "/v1/chat/completions"
LONG = "some words " * 100


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip", "gzip"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("*", "zstd"),
        ("zstd;q=0, *;q=0.1", "gzip"),
        ("identity", None),
        ("br", None),
        ("", None),
        ("gzip;nonsense", None),
    ],
)
def test_the_client_chooses(header, encoding):
    assert accepted_encoding(header) == encoding


def unpacked(data, encoding):
    return (
        zlib.decompress(data, 31)
        if encoding == "gzip"
        else zstandard.ZstdDecompressor().decompressobj().decompress(data)
    )


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_document_is_compressed(encoding):
    async with serving(ScriptedClient(says(LONG))) as http:
        plain = await http.post(URL, json=chat(), headers={"accept-encoding": "identity"})
        async with http.stream("POST", URL, json=chat(), headers={"accept-encoding": encoding}) as answer:
            data = b"".join([piece async for piece in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == encoding and answer.headers["vary"] == "Accept-Encoding"
    assert len(data) < len(plain.content) / 2
    text = msgspec.json.decode(unpacked(data, encoding))["choices"][0]["message"]["content"]
    assert text == plain.json()["choices"][0]["message"]["content"] == LONG


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_every_event_of_a_compressed_stream_can_be_read_at_once(encoding):
    client = ScriptedClient([item for piece in says("abc") for item in (0.01, piece)])
    peer = Peer(client, headers=[(b"accept-encoding", encoding.encode())], stream=True)
    await peer.task
    state = zlib.decompressobj(31) if encoding == "gzip" else zstandard.ZstdDecompressor().decompressobj()
    seen = ""
    assert dict(peer.sent[0]["headers"])[b"content-encoding"] == encoding.encode()
    for message in peer.sent[1:-1]:
        seen += state.decompress(message["body"]).decode()
        assert seen.endswith("\n\n")
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events(seen)[:-1])
    assert text == "abc"


async def test_a_small_document_is_sent_as_it_is():
    async with serving(ScriptedClient()) as http:
        answer = await http.get("/version", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers and answer.headers["vary"] == "Accept-Encoding"


async def test_a_fault_before_the_stream_is_still_a_fault():
    async with serving(ScriptedClient()) as http:
        answer = await http.post(URL, json=chat(n=0, stream=True), headers={"accept-encoding": "gzip"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "n"


PACK = {"gzip": lambda data: zlib.compress(data, wbits=31), "zstd": zstandard.ZstdCompressor().compress}


async def post_packed(data, encoding, max_bytes=4096):
    headers = {"content-type": "application/json", "content-encoding": encoding}
    async with serving(ScriptedClient(says("ok")), ApiConfig(max_body_bytes=max_bytes)) as http:
        return await http.post(URL, content=data, headers=headers)


@pytest.mark.parametrize("encoding", PACK)
async def test_a_compressed_request_is_read(encoding):
    answer = await post_packed(PACK[encoding](msgspec.json.encode(chat())), encoding)
    assert answer.status_code == 200


@pytest.mark.parametrize("encoding", PACK)
async def test_a_bomb_is_refused(encoding):
    answer = await post_packed(PACK[encoding](b" " * 50_000_000), encoding, max_bytes=100_000)
    assert answer.status_code == 413


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("spoil", [lambda data: b"x" + data, lambda data: data[:-9], lambda data: b""])
async def test_a_broken_body_is_the_clients_fault(encoding, spoil):
    answer = await post_packed(spoil(PACK[encoding](msgspec.json.encode(chat()))), encoding)
    assert answer.status_code == 400


async def test_an_unknown_encoding_is_refused():
    assert (await post_packed(b"x", "br")).status_code == 400
