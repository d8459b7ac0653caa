"""What one request may take before an engine is asked. tests/serve_app/hostile has what takes too much."""

from tests.serve_app.scripted import ScriptedClient, chat, says, serving


async def test_what_a_worker_is_killed_for_is_told(monkeypatch):
    """Whatever takes too long: here, since nothing may take any time."""
    monkeypatch.setattr("tests.serve_app.scripted.WORKERS._cpu_s", -1.0)
    async with serving(ScriptedClient(says("null"))) as http:
        schema = {"type": "object", "properties": {f"some{n}": {"type": "string"} for n in range(3000)}}
        answer = await http.post("/v1/chat/completions", json=chat(guided_json=schema))
    assert answer.status_code == 400, answer.text
    assert "s of a CPU; make it smaller or simpler" in answer.json()["error"]["message"]
