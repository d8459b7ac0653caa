"""The command `manta`, as a wheel installs it; `scripts/serve` of a clone calls the same code.

main              finds the subcommand; nothing heavy is imported before it is known
serve             downloads a model, and starts Ray and Serve on this machine, from a model or a config
chat              a chat in the terminal with any OpenAI-compatible server
pull              downloads a model from the Hugging Face Hub; resuming_hub resumes an interrupted download
bench             load generator for a running server: throughput, time to first token, inter-token latency
config            shows the effective config, explains a key
env               this machine's facts, and Ray's environment variables as a shell script
doctor            checks a machine, a config, a model's files and a cluster's nodes, and says what to do
top               a live view of a running server in the terminal

options           every config key as an option; deployment makes a `serve deploy` document of them
ray_environment   the list of environment variables of Ray and Serve; ray_token generates their token
gpus              checks a deployment's GPUs against those that Ray sees
server            runs Ray and Serve until Ctrl-C
machine           CPU, instruction sets, compiler, GPUs, versions
plain_text        names that others chose, without control characters
openai_client     a client of OpenAI-compatible servers, with the standard library alone
"""
