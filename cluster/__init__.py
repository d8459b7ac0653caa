"""The cluster: routes requests, migrates them, keeps replicas alive. Ray lives here. No HTTP, no tensors.

Ray Serve is the control plane: it deploys, places, restarts and scales `Ingress` and `Replica`. Tokens do not pass
through it. Each ingress holds one TCP connection to each replica (`wire.py`): length-prefixed msgpack of typed
structs, one frame per engine step for all requests of that ingress.

    ClusterClient.generate -> routing.choose -> Link.submit -> [wire] -> WireServer -> EngineThread
                           <- OutputQueue    <- Link        <- [wire] <- WireServer <-

`client.py` keeps the tokens that it has streamed. When a replica dies, stalls or drains, the request migrates to
another one as prompt + tokens, and the stream continues where it was.

Health is the age of the last finished step. Every heartbeat of a replica carries it for its engine and for each of its
ranks (`engine/runtime/watchdog.py`). A replica whose step has taken half of its time limit gets no new requests; beyond
the limit, or when a rank has sent no heartbeat for two seconds while there is work, the replica closes its connections,
its streams migrate, and its health check fails, so that Serve replaces it.

`fleet.py` joins what an ingress sees of the replicas, and has done with them (`fleet_log.py`), with what Serve's
controller says (`control_plane.py`): the fleet status at /status.

Replicas keep the state that outlives ingresses, two copies of each entry (`replica_store.py`, `state_shard.py`): what
the bytes are is the application's matter.

No request waits for ever. After `wire.ask_s` without a report about a request the ingress asks its replica (`Ask`),
whose engine reports its state behind every output that it has sent. A request that has finished or is unknown there
migrates, as does one without an answer within `wire.answer_s`, and one with a gap in its tokens. After three replicas
without a token between it ends with an error.
"""
