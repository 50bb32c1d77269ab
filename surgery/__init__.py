"""What a model is made of and how one is rewritten.

Importing it makes `AutoModelForCausalLM.from_pretrained` know the models that `nas` writes, without
importing torch or transformers itself.
"""

from surgery.hf.autoload import install

install()
