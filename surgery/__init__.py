"""Models: their architectures, operators and modules, and the surgery that rewrites one.

Importing this package registers the models that `nas` writes with `AutoModelForCausalLM.from_pretrained`,
without importing torch or transformers itself. It is part of nas-cli.
"""

from surgery.hf.autoload import install

install()
