"""The cluster: routes requests, migrates them, keeps replicas alive. Ray lives here. No HTTP, no tensors.

Ray Serve is the control plane: it deploys, places, restarts and scales `Ingress` and `Replica`. Tokens do not pass
through it. Each ingress holds one TCP connection to each replica (`wire.py`): length-prefixed msgpack of typed
structs, one frame per engine step for all requests of that ingress.

    ClusterClient.generate -> routing.choose -> Link.submit -> [wire] -> WireServer -> EngineThread
                           <- OutputQueue    <- Link        <- [wire] <- WireServer <-

`client.py` keeps the tokens that it has passed on. When a replica dies, stalls or drains, the request goes to another
one as prompt + tokens, and the stream continues where it was.

Health is the age of the last finished step. Every heartbeat of a replica carries it for its engine and for each of its
ranks (`engine/runtime/watchdog.py`). A new request avoids a replica whose step takes half of what it may take; beyond
the whole of it, or when a rank has been silent for two seconds while there is work, the replica ends its connections,
its streams move, and its health check fails, so that Serve replaces it.

No request is silent for ever. Of one that nothing was heard of for `wire.ask_s` the ingress asks its replica (`Ask`),
whose engine says in a report, after every chunk that it has sent, whether it is running. One that has finished or is
unknown there moves, as does one whose engine does not say so within `wire.answer_s`, and one of whose tokens some were
left out. After three replicas without a token between it ends with an error.
"""
