"""Runs the engine: its thread, its asyncio client, its watchdog.

`engine_thread.py` is the engine's busy loop, with one report per iteration; `async_engine.py` is an EngineClient over
it in this process, with an `output_queue.py` per request. `watchdog.py` and `step_times.py` detect a hung step.
"""
