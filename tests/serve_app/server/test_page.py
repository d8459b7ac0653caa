"""The page for people."""

import re

from tests.serve_app.scripted import ScriptedClient, serving


async def test_the_page_is_whole_and_takes_nothing_from_elsewhere():
    async with serving(ScriptedClient()) as http:
        answer = await http.get("/")
        paths = set((await http.get("/openapi.json")).json()["paths"])
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)=|https?://", answer.text)
    called = set(re.findall(r'fetch\("(v1/[\w/]+)"', answer.text))
    assert called == {"v1/models", "v1/chat/completions"}
    assert {f"/{path}" for path in called} <= paths
