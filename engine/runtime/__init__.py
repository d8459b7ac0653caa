"""The engine at work: its thread, its asyncio client, its watchdog.

`engine_thread.py` runs the step loop and reports once per turn; `async_engine.py` is an EngineClient over it in this
process, with an `output_queue.py` per request. `watchdog.py` and `step_times.py` say when a step hangs.
"""
