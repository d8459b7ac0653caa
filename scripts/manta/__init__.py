"""The command `manta`, as a wheel installs it; `scripts/serve` of a clone calls the same code.

main              finds the subcommand; nothing heavy is imported before it is known
serve             starts Ray and Serve on this machine, from a model or a config
chat              a chat in the terminal with any OpenAI-compatible server
pull              downloads a model from the Hugging Face Hub; resuming_hub goes on where one was interrupted
bench             load on a running server: throughput, time to first token, gaps
config            shows the effective config, explains a key
env               this machine's facts, and Ray's switches as a shell script

options           every config key as an option; deployment makes a `serve deploy` document of them
ray_environment   the one list of what Ray and Serve read from their environment; ray_token draws their token
server            Ray and Serve from their start to Ctrl-C
machine           CPU, instruction sets, compiler, GPUs, versions
openai_client     reads a server's models and its streams, with the standard library alone
"""
