"""Whoever wants to know is told that a request lost replicas on its way; the text is what it would have been."""

import msgspec

from tests.serve_app.scripted import ScriptedClient, chat, events, says, serving

URL = "/v1/chat/completions"


def moved(times: int) -> ScriptedClient:
    first, *rest = says("Hello.", sizes=(2,))
    return ScriptedClient([first, *(msgspec.structs.replace(chunk, num_migrations=times) for chunk in rest)])


async def test_a_whole_answer_says_so_in_its_head_and_usage():
    for times in (0, 2):
        async with serving(moved(times)) as http:
            answer = await http.post(URL, json=chat())
        assert answer.headers["x-migrations"] == str(times)
        assert answer.json()["usage"].get("migrations") == (times or None)
        assert answer.json()["choices"][0]["message"]["content"] == "Hello."


async def test_a_stream_says_so_in_its_usage():
    async with serving(moved(2)) as http:
        answer = await http.post(URL, json=chat(stream=True, stream_options={"include_usage": True}))
    assert events(answer.text)[-2]["usage"]["migrations"] == 2
