"""One module per command group: parse, call one function below, render."""
