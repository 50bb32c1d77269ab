"""The interface table: arguments of transformers, PEFT, accelerate and torch x kinds of models."""
