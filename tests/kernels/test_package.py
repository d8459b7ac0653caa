import subprocess
import sys

import kernels


def test_the_package_has_no_version():
    assert not hasattr(kernels, "__version__")


def test_transformers_models_import_beside_our_kernels():
    code = (
        "import kernels; from transformers.models.llama.modeling_llama import LlamaForCausalLM as L; print(L.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "LlamaForCausalLM", done.stderr
