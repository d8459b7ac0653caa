"""python -m scripts.dashboards: writes our Grafana dashboards to files, or uploads them to a Grafana server."""

import argparse
import json
import os
import sys
from pathlib import Path

from scripts.dashboards.board import board_json
from scripts.dashboards.panels import BOARDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.dashboards", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="DIR", help="files for Grafana's provisioning, or to import")
    parser.add_argument("--url", help="a Grafana server, such as https://grafana.example.org")
    parser.add_argument("--token-file", type=Path, help="holds a service account's token; else it is GRAFANA_TOKEN")
    parser.add_argument("--folder", default="Manta", help="title of a new folder (default: Manta)")
    parser.add_argument("--overwrite", action="store_true", help="replace dashboards that are there already")
    options = parser.parse_args()
    if not options.write and not options.url:
        parser.error("nothing to do: give --url or --write")
    boards = [board_json(board) for board in BOARDS]
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        for board in boards:
            path = options.write / f"{board['uid']}.json"
            path.write_text(json.dumps(board, indent=2) + "\n")
            print(path)
    if options.url:
        token = options.token_file.read_text().strip() if options.token_file else os.environ.get("GRAFANA_TOKEN", "")
        if not token:
            parser.error("a token is needed: --token-file, or GRAFANA_TOKEN in the environment")
        try:
            from scripts.dashboards.publish import PublishError, connect, publish
        except ImportError as error:
            sys.exit(f"error: {error.name} is missing; try: pip install manta-serve[dashboards]")
        try:
            paths = publish(connect(options.url, token), boards, options.folder, options.overwrite)
        except PublishError as error:
            sys.exit(f"error: {error}")
        for path in paths:
            print(options.url.rstrip("/") + path)


if __name__ == "__main__":
    main()
