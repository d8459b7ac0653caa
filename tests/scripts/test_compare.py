from argparse import Namespace
from pathlib import Path
from xml.etree import ElementTree

from scripts.bench.compare import servers, summary, table
from scripts.bench.plot import bars_svg


def test_medians_and_which_way_is_better() -> None:
    speeds = {"Manta": (30.0, 10.0, 20.0), "peer": (5.0, 6.0, 4.0)}
    waits = {"Manta": (8.0, 9.0, 10.0), "peer": (3.0, 18.0, 40.0)}
    rows = [
        {"round": i, "server": server, "load": "x", "output_tok_s": speeds[server][i], "ttft_p50_ms": waits[server][i]}
        for server in speeds
        for i in range(3)
    ]
    found = {(row["server"], row["figure"]): row for row in summary(rows)}
    peer = found["peer", "output_tok_s"]
    assert (peer["median"], peer["least"], peer["most"], peer["manta_is_better_by"]) == (5.0, 4.0, 6.0, 4.0)
    assert found["peer", "ttft_p50_ms"]["manta_is_better_by"] == 2.0  # waits half as long
    assert "4.00x" in table(summary(rows))


def test_only_peers_that_were_given_are_started() -> None:
    given = Namespace(
        manta="m", manta_options=["--num-replicas", "1"], port=1234, vllm=None, llama_server=None, transformers=None
    )
    (ours,) = servers(given)
    assert ours.command[-4:] == ("--port", "1234", "--num-replicas", "1") and ours.url == "http://127.0.0.1:1234/v1"
    given.vllm, given.model = Path("/env"), Path("/model")
    assert [server.name for server in servers(given)] == ["Manta", "vLLM"]


def test_bars_are_as_high_as_their_values() -> None:
    svg = ElementTree.fromstring(bars_svg("t", {"a": {"x": 10.0, "y": 5.0}, "b": {"y": 1.0}}))
    bars = [one for one in svg.iter("{http://www.w3.org/2000/svg}rect") if one.get("height") not in ("400", "12")]
    heights = [float(bar.get("height", 0)) for bar in bars]
    assert len(heights) == 3 and heights[0] == 2 * heights[1] == heights[2]
